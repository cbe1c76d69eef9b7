from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlhf.apps.dashboard.runs import (
    Run,
    find_runs,
    is_alive,
    newest,
    rows_of,
    signature,
)
from rlhf.apps.dashboard.views import place
from tests.apps.dashboard.worlds import make_run, stage


def test_runs_are_found_in_folders_and_told_apart(tmp_path: Path) -> None:
    for name in ("runs/a", "runs/study/low/seed-0", "runs/study/high/seed-0"):
        make_run(tmp_path / name)
    (tmp_path / "runs/a/sft/config.yaml").touch()  # inside a run, which is not looked into
    found = find_runs([tmp_path / "runs/a", tmp_path / "runs/study"])
    assert [run.name for run in found] == ["a", "study/high/seed-0", "study/low/seed-0"]
    assert [run.name for run in find_runs([tmp_path / "runs/a", tmp_path / "runs/a"])] == ["a"]


def test_the_newest_runs_are_those_whose_manifest_changed_last(tmp_path: Path) -> None:
    for age, name in enumerate(("b", "c", "a")):
        manifest = make_run(tmp_path / name) / "manifest.json"
        manifest.touch()
        for file in (manifest, manifest.with_name("config.yaml")):
            os.utime(file, (1000 - age, 1000 - age))
    runs = find_runs([tmp_path])
    assert [run.name for run in newest(runs, 2)] == ["b", "c"]
    assert newest(runs, 9) == runs


def test_nothing_to_show_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run in it .*; start one with rlhf run CONFIG"):
        find_runs([tmp_path])
    with pytest.raises(ValueError, match="none: no such folder; name a run directory"):
        find_runs([tmp_path / "none"])


def test_stages_of_a_run_on_its_way(tmp_path: Path) -> None:
    stages = Run("a", make_run(tmp_path / "a")).stages()
    assert [one.key for one in stages] == ["sft/main", "rounds/1/rm", "rounds/1/ppo", "rm", "ppo"]
    sft, last = stages[0], stages[-1]
    assert (sft.kind, sft.status, sft.step, sft.total, sft.seconds) == ("sft", "done", 4, None, 61)
    assert (last.kind, last.status, last.step, last.total) == ("ppo", "running", 7, 10)
    assert (last.seconds, last.memory) == (None, None)


def test_benchmarks_of_a_stage_are_not_the_stage(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a")
    (root / "manifest.json").write_text(
        json.dumps({"stages": {"capabilities/ppo": stage("capabilities")}})
    )
    (found,) = Run("a", root).stages()
    assert (found.kind, found.step) == ("capabilities", None)
    assert place(Run("a", root), found.key, lambda text: text) == "Capabilities: ppo"


def test_a_killed_run_has_stopped_and_one_elsewhere_has_not(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a", alive=False)
    assert [one.status for one in Run("a", root).stages()][-1] == "stopped"
    (root / ".lock").write_text("process 1 on another-host")
    assert is_alive(root)
    (root / ".lock").write_text("")
    assert not is_alive(root)


def test_half_written_and_damaged_files_are_borne(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a")
    assert [row["step"] for row in rows_of(root / "ppo/metrics.jsonl")] == [0, 1, 2, 3, 4, 5, 6]
    (root / "manifest.json").write_text('{"stages": ')
    (root / "config.yaml").write_text("a: [")
    assert Run("a", root).stages() == [] and Run("a", root).config == {}
    (root / "manifest.json").write_text(json.dumps({"stages": {"rm": stage("rm"), "x": 1}}))
    assert [one.key for one in Run("a", root).stages()] == ["rm"]


def test_the_signature_changes_with_every_line(tmp_path: Path) -> None:
    run = Run("a", make_run(tmp_path / "a"))
    before = signature([run])
    assert signature([run]) == before
    with (run.root / "ppo/metrics.jsonl").open("a") as file:
        file.write("re\n")
    assert signature([run]) != before
