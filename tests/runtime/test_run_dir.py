from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.runtime.manifest import Artifact, StageManifest, is_finished, outputs_of, read_manifest
from rlhf.runtime.run_dir import RunDir

INPUTS = {"data": Artifact(path="anywhere", hash="h1")}


def manifest(status: str = "done", **changes) -> StageManifest:
    values = {
        "stage": "rm",
        "status": status,
        "config_hash": "c1",
        "inputs": INPUTS,
        "outputs": {"weights": Artifact(path="rm/weights", hash="h2")},
        "versions": {"torch": "2"},
        "started": "2026-01-01T00:00:00+00:00",
    }
    return StageManifest.model_validate(values | changes)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_last_round_is_at_the_top_and_earlier_ones_below(run):
    assert run.stage("rm") == run.root / "rm"
    assert run.stage("rm", 2, 2) == run.root / "rm"
    assert run.stage("rm", 1, 2) == run.root / "rounds/1/rm"
    assert run.stage("sft/main", 1, 2) == run.root / "sft/main"
    assert run.key("ppo", 1, 3) == "rounds/1/ppo"
    assert not run.root.exists()


def test_manifests_come_back_by_key(run):
    first, second = manifest(), manifest("running")
    run.record(run.stage("rm", 1, 2), first)
    run.record(run.stage("rm"), second)
    assert run.manifests() == {"rounds/1/rm": first, "rm": second}
    assert read_manifest(run.stage("rm")) == second
    assert read_manifest(run.root) is None


def test_stage_that_makes_a_file(run):
    assert run.stage_of(run.root / "rm/pairs.jsonl") == "rm"
    assert run.stage_of(run.root / "rounds/1/ppo/actor") == "ppo"
    assert run.stage_of(run.root / "data/sft.jsonl") is None
    assert run.stage_of(run.root.parent / "rm") is None


def test_done_means_every_directory_of_the_stage(run):
    assert not run.is_done("sft")
    run.record(run.stage("sft/main"), manifest())
    assert run.is_done("sft") and run.is_done("sft", 1, 2)
    run.record(run.stage("sft/large"), manifest("waiting"))
    assert not run.is_done("sft")
    run.record(run.stage("rm", 1, 2), manifest())
    assert run.is_done("rm", 1, 2) and not run.is_done("rm", 2, 2)


def test_finished_only_with_the_same_config_inputs_and_outputs(run):
    directory = run.stage("rm")
    assert not is_finished(directory, "c1", INPUTS)
    run.record(directory, manifest())
    assert not is_finished(directory, "c1", INPUTS)  # its output is not there
    (directory / "weights").write_text("w")
    assert is_finished(directory, "c1", INPUTS)
    assert is_finished(directory, "c1", {"data": Artifact(path="moved", hash="h1")})
    assert not is_finished(directory, "c2", INPUTS)
    assert not is_finished(directory, "c1", {"data": Artifact(path="anywhere", hash="h3")})
    assert not is_finished(directory, "c1", {})
    run.record(directory, manifest("running"))
    assert not is_finished(directory, "c1", INPUTS)


def test_a_manifest_cut_off_in_the_middle_is_none(run):
    run.record(run.stage("rm"), manifest())
    path = run.stage("rm") / "manifest.json"
    path.write_text(path.read_text()[:50])
    assert read_manifest(run.stage("rm")) is None


def test_set_aside_keeps_the_results_of_the_last_time(run):
    for text in ("first", "second"):
        run.record(run.stage("sft/main"), manifest())
        (run.stage("sft/main") / "weights").write_text(text)
        run.record(run.stage("rm"), manifest())
        run.set_aside(run.stage("sft"))
        assert not run.stage("sft").exists()
        assert list(run.manifests()) == ["rm"]
    assert (run.root / "aside/sft/main/weights").read_text() == "second"
    run.set_aside(run.stage("absent"))


def test_peoples_answers_are_no_result_and_are_never_removed(run):
    collected = run.stage("collect")
    for answers in (b"first", b"second"):
        run.record(collected, manifest(stage="collect"))
        for name in ("annotation.sqlite", "annotation.sqlite-wal", "annotation.sqlite-shm"):
            (collected / name).write_bytes(answers)
        assert outputs_of(collected) == {}
        run.set_aside(collected)
    assert (run.root / "aside/collect/annotation.sqlite").read_bytes() == b"second"
    run.record(collected, manifest(stage="collect"))
    run.set_aside(collected)  # an attempt that came to nothing
    assert (run.root / "aside/collect/annotation.sqlite").read_bytes() == b"second"


@pytest.mark.parametrize(("renames", "now"), [(0, "second"), (1, "second"), (2, "first")])
def test_killed_while_results_change_places(run, monkeypatch, renames, now):
    for text in ("first", "second"):
        run.set_aside(run.stage("rm"))
        run.record(run.stage("rm"), manifest(config_hash=text))
        (run.stage("rm") / "weights").write_text(text)
    rename, calls = Path.rename, []

    def killed(self, target):
        calls.append(target)
        if len(calls) > renames:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run.take_back(run.stage("rm"), run.root / "aside/rm")
    monkeypatch.undo()
    with run.lock():
        pass
    other = {"first": "second", "second": "first"}[now]
    for _ in range(2):
        assert (run.stage("rm") / "weights").read_text() == now
        assert (run.root / "aside/rm/weights").read_text() == other
        assert run.manifests()["rm"].config_hash == now
        assert [path.name for path in (run.root / "aside").iterdir()] == ["rm"]
        run.take_back(run.stage("rm"), run.root / "aside/rm")
        now, other = other, now


def test_a_run_directory_has_one_process_at_a_time(run):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from rlhf.runtime.run_dir import RunDir\n"
            "with RunDir(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)",
            str(run.root),
        ],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"in use by process {holder.pid} on"), run.lock():
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run.lock():  # a dead process holds nothing
        pass
    with run.lock():
        pass


def test_a_file_system_without_locks_is_told(run, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(ValueError, match="has no locks .* set output_dir to another"), run.lock():
        pass


def test_a_finished_stage_is_borrowed_from_another_run(run, tmp_path):
    lender = RunDir(tmp_path / "lender")
    lent = lender.stage("rm", 1, 2)
    lender.record(lent, manifest())
    (lent / "weights").write_text("w")
    borrower = RunDir(run.root, lenders=(tmp_path / "absent", lender.root))
    directory = borrower.stage("rm")
    for other in (("ppo", "c1", INPUTS), ("rm", "c2", INPUTS), ("rm", "c1", {})):
        assert borrower.borrow(directory, *other) is None
    assert borrower.borrow(directory, "rm", "c1", INPUTS) == manifest()
    assert (directory / "weights").read_text() == "w" and not directory.readlink().is_absolute()
    assert borrower.manifests() == {"rm": manifest()}
    assert borrower.borrow(directory, "rm", "c1", INPUTS) is None  # it is there


def test_of_a_borrowed_stage_only_the_link_is_set_aside(run, tmp_path):
    lender = RunDir(tmp_path / "lender")
    lender.record(lender.stage("rm"), manifest())
    (lender.stage("rm") / "weights").write_text("w")
    borrower = RunDir(run.root, lenders=(lender.root,))
    for _ in range(2):  # the second takes the place of the first in aside/
        borrower.borrow(borrower.stage("rm"), "rm", "c1", INPUTS)
        borrower.set_aside(borrower.stage("rm"))
        assert not borrower.stage("rm").exists() and borrower.manifests() == {}
    assert (lender.stage("rm") / "weights").read_text() == "w"
