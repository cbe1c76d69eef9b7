"""Benchmarks around the stages of a run, with a harness that answers by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.apps import capabilities
from rlhf.config.load import load_config
from rlhf.config.schema import CapabilitySection, Config
from rlhf.demo.rehearse import rehearse
from rlhf.evaluation.capabilities import QuestionRow
from rlhf.runtime.distributed import make_runtime
from rlhf.runtime.run_dir import RunDir
from tests.stages.worlds import call, statuses

ASKED = "capabilities.tasks=[demo_world]"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that the harness has been asked about."""
    seen: list[Path] = []

    def ask(model: Path, section: CapabilitySection, runtime: Any) -> list[QuestionRow]:
        seen.append(model)
        right = (1.0, 0.0) if model.name == "actor" else (1.0, 1.0)
        return [
            QuestionRow(id=f"t:{i}", task="t", metric="acc", shots=0, value=value)
            for i, value in enumerate(right)
        ]

    monkeypatch.setattr(capabilities, "ask", ask)
    monkeypatch.setattr(capabilities, "harness_version", lambda: "lm-eval 0.0")
    return seen


@pytest.mark.slow  # where no other test has made the finished run
def test_a_finished_run_is_asked_and_nothing_else_runs_again(
    finished: Path, tmp_path: Path, asked: list[Path]
) -> None:
    shutil.copytree(finished.parent / "mini", tmp_path / "mini", symlinks=True)
    before = statuses(tmp_path / "mini")
    call(finished, f"output_dir={tmp_path}", ASKED)
    found = statuses(tmp_path / "mini")
    assert found == before | {f"capabilities/{name}": "done" for name in ("base", "sft", "ppo")}
    assert [path.name for path in asked] == ["main", "main", "actor"]
    report = json.loads((tmp_path / "mini/report/report.json").read_text("utf-8"))
    assert report["capabilities"]["tax"] == 0.5 and report["missing"] == []
    call(finished, f"output_dir={tmp_path}", ASKED)
    assert len(asked) == 3, "models that have not changed are not asked again"


def config(**changes: Any) -> Config:
    values = load_config("tiny", ["capabilities={}"]).model_dump() | changes
    return Config.model_validate(values)


def keys(config: Config, stage: str, round: int, root: Path) -> list[str]:
    runtime = make_runtime(config, RunDir(root), round)
    return [step.key for step in capabilities.after(stage, config, runtime)]


def test_every_model_has_a_folder_of_its_own(tmp_path: Path) -> None:
    found = [keys(config(), stage, n, tmp_path) for stage in ("sft", "rm", "ppo") for n in (1, 2)]
    sft = ["capabilities/sft"]
    assert found == [sft, sft, [], [], ["capabilities/ppo-1"], ["capabilities/ppo"]]
    assert keys(load_config("tiny"), "ppo", 2, tmp_path) == []


def test_the_base_is_asked_only_where_a_model_will_be_made(tmp_path: Path) -> None:
    runtime = make_runtime(config(), RunDir(tmp_path))
    steps = capabilities.before(config(), runtime, [("sft", 1), ("evaluate", 1)])
    assert [step.key for step in steps] == ["capabilities/base"]
    assert capabilities.before(config(), runtime, [("evaluate", 1)]) == []


def test_own_task_files_are_inputs(tmp_path: Path) -> None:
    section = {"tasks": ["mine"], "include": [str(tmp_path)]}
    (step,) = capabilities.before(
        config(capabilities=section), make_runtime(config(), RunDir(tmp_path)), [("ppo", 1)]
    )
    assert step.inputs["tasks 1"] == tmp_path


def test_a_rehearsal_asks_the_demo_s_questions() -> None:
    small = rehearse(config(capabilities={"tasks": ["mmlu"], "include": ["mine"]})).capabilities
    assert small is not None and (small.tasks, small.include) == (("demo_world",), ())
