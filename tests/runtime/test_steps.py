from __future__ import annotations

import gc
import json
import random
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlhf.runtime.manifest import read_manifest
from rlhf.runtime.outlook import outlook
from rlhf.runtime.run_dir import RunDir
from rlhf.runtime.steps import Step, Waiting, execute


class World:
    """A step that copies its input in capitals, and counts how often it is asked to."""

    def __init__(self, runtime, source: Path):
        self.runtime = runtime
        self.source = source
        self.times = 0
        self.fails: BaseException | None = None

    def step(self, setting: int = 0, watching: int = 0) -> Step:
        return Step(
            key="rm",
            stage="rm",
            directory=self.runtime.stage_dir("rm"),
            sections=(setting, watching),
            inputs={"source": self.source},
            work=self.work,
            lasting=(setting,),
        )

    def work(self, step: Step) -> dict[str, float | int | str | None]:
        self.times += 1
        (step.directory / "progress").open("a").write("x")
        if self.fails:
            raise self.fails
        (step.directory / "result").write_text(step.inputs["source"].read_text().upper())
        return {"accuracy": 0.5, "pairs": 1200}

    def run(self, setting: int = 0, watching: int = 0):
        return execute(self.step(setting, watching), self.runtime)


@pytest.fixture
def world(runtime, tmp_path) -> World:
    (tmp_path / "source").write_text("text")
    return World(runtime, tmp_path / "source")


def test_what_a_finished_step_leaves(world):
    result = world.run()
    assert (result.summary["pairs"], result.waiting) == (1200, None)
    assert (result.directory / "result").read_text() == "TEXT"
    assert json.loads((result.directory / "summary.json").read_text())["accuracy"] == 0.5
    manifest = read_manifest(result.directory)
    assert (manifest.status, manifest.summary["pairs"]) == ("done", 1200)
    assert sorted(manifest.outputs) == ["progress", "result"]
    assert manifest.seconds > 0 and manifest.peak_memory_gib > 0.01
    assert {"python", "torch", "rlhf"} <= set(manifest.versions)
    assert world.runtime.run_dir.manifests() == {"rm": manifest}
    assert "1,200" in world.runtime.console.file.getvalue()


def test_finished_is_reused(world):
    first = world.run()
    assert dict(world.run().summary) == dict(first.summary)
    assert world.times == 1


@pytest.mark.parametrize("change", ["config", "input", "output"])
def test_a_change_runs_it_again_from_nothing(world, change):
    directory = world.run().directory
    if change == "input":
        world.source.write_text("other text")
    if change == "output":
        (directory / "result").unlink()
    world.run(setting=1 if change == "config" else 0)
    assert world.times == 2
    afresh = (directory / "progress").read_text() == "x"
    assert afresh == (change != "output")  # with the output alone gone, the rest is still right


def test_interrupted_is_resumed_where_it_was(world):
    world.fails = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        world.run()
    assert read_manifest(world.step().directory).status == "running"
    world.fails = None
    assert (world.run().directory / "progress").read_text() == "xx"


def test_a_full_disk_does_not_hide_what_happened(world, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    world.fails = OSError("step-000002: could not be written; free some space")
    monkeypatch.setattr("rlhf.runtime.steps._record", full)
    with pytest.raises(OSError, match="free some space"):
        world.run()


def test_interrupted_with_another_config_starts_afresh(world):
    world.fails = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        world.run()
    world.fails = None
    assert (world.run(setting=1).directory / "progress").read_text() == "x"


def test_what_only_watches_may_change_on_the_way_and_not_afterwards(world):
    world.fails = RuntimeError("an alarm")
    for watching in (0, 1, 1):
        with pytest.raises(RuntimeError):
            world.run(watching=watching)
    first = world.step().config_hash
    assert read_manifest(world.step().directory).resumed == (first,)
    world.fails = None
    directory = world.run(watching=2).directory
    assert (directory / "progress").read_text() == "xxxx"
    assert "goes on under changed settings" in world.runtime.console.file.getvalue()
    manifest = read_manifest(directory)
    assert manifest.config_hash == world.step(watching=2).config_hash
    assert manifest.resumed == (first, world.step(watching=1).config_hash)
    world.run(watching=2)
    assert world.times == 4
    assert (world.run(watching=3).directory / "progress").read_text() == "x"
    assert read_manifest(directory).resumed == ()


def test_what_comes_to_nothing_does_not_replace_what_was_set_aside(world):
    """Two mistakes in the config, one after the other, must not cost the finished result."""
    directory = world.run().directory
    work, world.work = world.work, lambda step: (_ for _ in ()).throw(ValueError("refused"))
    for setting in (1, 2):
        with pytest.raises(ValueError, match="refused"):
            world.run(setting=setting)
    kept = world.runtime.run_dir.root / "aside" / "rm" / "result"
    assert kept.read_text() == "TEXT"
    world.work, times = work, world.times
    world.run()  # back to what it was
    assert (directory / "result").is_file() and not kept.exists() and world.times == times
    world.run(setting=3)
    world.run(setting=4)
    assert (directory / "result").is_file() and kept.is_file()
    assert read_manifest(kept.parent).config_hash == world.step(setting=3).config_hash
    assert outlook(world.step(setting=3), world.runtime, ()).action == "reuse"
    times = world.times
    world.run(setting=3)
    assert read_manifest(kept.parent).config_hash == world.step(setting=4).config_hash
    manifest = read_manifest(directory)
    assert world.times == times and world.runtime.run_dir.manifests() == {"rm": manifest}


def test_unfinished_work_is_taken_back_and_goes_on_where_it_was(world):
    """A mistaken key, and the right one again, must not cost the iterations so far."""
    world.fails = RuntimeError("killed")
    for setting in (0, 1):
        with pytest.raises(RuntimeError):
            world.run(setting=setting)
    world.fails, directory = None, world.step().directory
    assert outlook(world.step(), world.runtime, ()) == ("resume", "taken back from aside/")
    world.run()
    assert (directory / "progress").read_text() == "xx" and world.times == 3
    assert read_manifest(directory).status == "done"


def test_what_people_have_ranked_is_never_removed(world):
    world.fails, directory = Waiting("waiting for rankings"), world.step().directory
    for setting in (0, 1, 2, 1, 0, 2):
        world.run(setting=setting)
        ranked = directory / "annotation.sqlite"
        if world.times <= 3:
            ranked.write_text(str(setting))
        assert ranked.read_text() == str(setting)
    kept = (world.runtime.run_dir.root / "aside").rglob("annotation.sqlite")
    assert sorted(path.read_text() for path in kept) == ["0", "1"]
    world.runtime.run_dir.set_aside(directory)  # as --redo does
    world.run(setting=2)
    assert not ranked.exists()
    kept = (world.runtime.run_dir.root / "aside").rglob("annotation.sqlite")
    assert sorted(path.read_text() for path in kept) == ["0", "1", "2"]


def test_an_empty_attempt_at_a_part_of_a_stage_replaces_nothing(world):
    """As --redo sft twice, whose first try was refused its input."""
    run_dir = world.runtime.run_dir
    part = Step("rm/main", "rm", run_dir.stage("rm") / "main", (), {}, lambda step: work(step))

    def work(step: Step) -> dict[str, float | int | str | None]:
        if world.fails:
            raise world.fails
        (step.directory / "result").write_text("weeks of a GPU")
        return {}

    execute(part, world.runtime)
    world.fails = ValueError("line 3 is wrong")
    for _ in range(2):
        run_dir.set_aside(run_dir.stage("rm"))
        with pytest.raises(ValueError, match="line 3"):
            execute(part, world.runtime)
    assert (run_dir.root / "aside/rm/main/result").read_text() == "weeks of a GPU"


def test_what_was_begun_last_is_taken_back(world, monkeypatch):
    """Results that --redo threw away are older than what people have ranked since."""
    times = iter(f"2026-01-01T00:00:{n:02}+00:00" for n in range(60))
    monkeypatch.setattr("rlhf.runtime.steps._now", lambda: next(times))
    run_dir, directory = world.runtime.run_dir, world.step().directory
    world.run()
    (directory / "rankings.jsonl").write_text("thrown away")
    run_dir.set_aside(directory)  # as --redo does
    world.fails = Waiting("for rankings")
    world.run()
    (directory / "annotation.sqlite").write_text("half done")
    world.run(setting=1)
    world.run()
    assert (directory / "annotation.sqlite").read_text() == "half done"
    assert next((run_dir.root / "aside").rglob("rankings.jsonl")).read_text() == "thrown away"


def test_another_round_takes_over_what_was_the_last_ones(world):
    run_dir = world.runtime.run_dir
    world.run()

    def step_of(round: int) -> Step:
        directory = run_dir.stage("rm", round, rounds=2)
        return replace(world.step(setting=round - 1), key=f"round {round}", directory=directory)

    first, second = step_of(1), step_of(2)
    assert outlook(first, world.runtime, ()).action == "reuse"
    assert not first.directory.exists() and world.times == 1
    assert execute(first, world.runtime).directory == run_dir.root / "rounds/1/rm"
    assert world.times == 1 and (first.directory / "result").read_text() == "TEXT"
    assert list(run_dir.manifests()) == ["rounds/1/rm"]
    execute(second, world.runtime)
    assert world.times == 2 and second.directory == run_dir.root / "rm"
    for step in (first, second):
        execute(step, world.runtime)
    assert world.times == 2


def test_another_round_goes_on_with_what_people_have_begun(world):
    world.fails = Waiting("for rankings")
    (world.run().directory / "annotation.sqlite").write_text("half done")
    earlier = world.runtime.run_dir.stage("rm", 1, rounds=2)
    assert outlook(replace(world.step(), directory=earlier), world.runtime, ()).action == "resume"
    other = replace(world.step(setting=5), directory=earlier)
    assert outlook(other, world.runtime, ()) == ("run", "not begun")
    execute(other, world.runtime)
    assert not (earlier / "annotation.sqlite").exists()
    world.runtime.run_dir.set_aside(earlier)
    execute(replace(world.step(), directory=earlier), world.runtime)
    assert (earlier / "annotation.sqlite").read_text() == "half done"


def test_what_a_damaged_manifest_belongs_to_is_set_aside(world):
    directory = world.run().directory
    (directory / "manifest.json").write_text("{")
    world.run()
    assert world.times == 2 and read_manifest(directory).status == "done"
    assert (world.runtime.run_dir.root / "aside/rm/result").read_text() == "TEXT"
    (world.runtime.run_dir.root / "manifest.json").write_text("")
    with pytest.raises(ValueError, match="manifest.json: damaged; remove it"):
        world.runtime.run_dir.manifests()


@pytest.mark.parametrize("lost", ["the last write", "the list"])
def test_a_finished_step_that_the_run_does_not_list_is_listed_again(world, lost):
    run_dir, directory = world.runtime.run_dir, world.run().directory
    if lost == "the list":
        (run_dir.root / "manifest.json").unlink()
    else:  # as a process leaves it that is killed between the two manifests
        done = (directory / "manifest.json").read_text()
        run_dir.record(directory, read_manifest(directory).model_copy(update={"status": "running"}))
        (directory / "manifest.json").write_text(done)
    assert not run_dir.is_done("rm")
    world.run()
    assert run_dir.is_done("rm") and world.times == 1
    assert run_dir.manifests() == {"rm": read_manifest(directory)}


def test_waiting_goes_on_at_the_next_call(world):
    world.fails = Waiting("waiting for rankings")
    assert world.run().waiting == "waiting for rankings"
    assert read_manifest(world.step().directory).status == "waiting"
    world.fails = None
    assert world.run().waiting is None


def test_an_input_that_is_not_there(world):
    world.source.unlink()
    with pytest.raises(ValueError, match="rm needs .*source.*is not there; check the path"):
        world.run()
    world.source = world.runtime.run_dir.root / "collect" / "rankings.jsonl"
    with pytest.raises(ValueError, match="run stage collect first: --from collect"):
        world.run()
    assert world.times == 0 and not world.step().directory.exists()


def test_an_input_whose_stage_has_not_finished(world):
    world.fails = Waiting("for people")
    directory = world.run().directory
    later = Step("ppo", "ppo", directory.parent / "ppo", (), {"rm": directory / "progress"}, print)
    with pytest.raises(ValueError, match="ppo needs .*progress, but stage rm has not finished"):
        execute(later, world.runtime)


def test_a_step_draws_the_same_numbers_whatever_ran_before_it(world, monkeypatch):
    drawn = []

    def draw(step: Step) -> dict[str, float | int | str | None]:
        drawn.append((random.random(), np.random.random(), torch.rand(()).item()))
        return {}

    monkeypatch.setattr(world, "work", draw)
    world.run(setting=0)
    torch.rand(7)
    world.run(setting=1)
    assert drawn[0] == drawn[1]


def test_a_step_has_the_memory_of_the_one_before(world, monkeypatch):
    """A model and its trainer name each other; reference counts alone never free them."""
    left, alive = [], []

    def work(step: Step) -> dict[str, float | int | str | None]:
        alive.append([model() for model in left if model() is not None])
        model = torch.nn.Linear(2, 2)
        model.trainer = SimpleNamespace(model=model)
        left.append(weakref.ref(model))
        return {}

    monkeypatch.setattr(world, "work", work)
    gc.disable()
    try:
        world.run(setting=0)
        world.run(setting=1)
    finally:
        gc.enable()
    assert alive == [[], []]


def test_checkpoints_go_once_the_step_is_done_and_not_before(world):
    checkpoints = world.step().directory / "checkpoints"
    (checkpoints / "step-000001").mkdir(parents=True)
    world.fails = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        world.run()
    assert checkpoints.is_dir()
    world.fails = Waiting("for people")
    world.run()
    assert checkpoints.is_dir()
    world.fails = None
    world.run()
    assert not checkpoints.exists()
    checkpoints.mkdir()
    world.run()  # killed between the manifest and the removal
    assert (checkpoints.exists(), world.times) == (False, 3)


def test_results_are_on_the_disk_before_it_is_done_and_checkpoints_go(world, monkeypatch):
    directory = world.step().directory
    synced = []

    def note(path: Path) -> None:
        manifest = read_manifest(directory)
        if manifest and manifest.status == "running" and (directory / "checkpoints").is_dir():
            synced.append(path)

    def work(step: Step) -> dict[str, float | int | str | None]:
        for folder in ("actor/sub", "checkpoints"):
            (directory / folder).mkdir(parents=True)
            (directory / folder / "weights").write_text("1")
        return world.work(step)

    monkeypatch.setattr("rlhf.runtime.files.sync", note)
    execute(replace(world.step(), work=work), world.runtime)
    results = ("result", "progress", "actor", "actor/sub", "actor/sub/weights")
    assert {directory, *(directory / name for name in results)} <= set(synced)
    assert not any("checkpoints" in path.parts for path in synced)


@pytest.mark.parametrize("end", [RuntimeError("killed"), KeyboardInterrupt(), Waiting("for you")])
def test_time_is_summed_over_attempts(world, monkeypatch, end):
    ticks = (0.0, 100.0, 1000.0, 1007.0, 2000.0, 2001.0)
    wall, cpu = iter(ticks), iter(2 * tick for tick in ticks)
    monkeypatch.setattr("rlhf.runtime.usage.time", SimpleNamespace(monotonic=lambda: next(wall)))
    monkeypatch.setattr("rlhf.runtime.usage._cpu_seconds", lambda: next(cpu))
    world.fails = end
    with nullcontext() if isinstance(end, Waiting) else pytest.raises(type(end)):
        world.run()
    first = read_manifest(world.step().directory)
    assert (first.status == "done", first.seconds) == (False, 100.0)
    world.fails = None
    world.run()
    second = read_manifest(world.step().directory)
    assert (second.status, second.seconds, second.started) == ("done", 107.0, first.started)
    assert (first.cpu_seconds, second.cpu_seconds) == (200.0, 214.0)
    world.run(setting=1)  # other results: what these took is no part of them
    assert read_manifest(world.step().directory).seconds == 1.0


def lent_to(world: World, tmp_path: Path) -> World:
    """The same step in another run, which may borrow from the first."""
    run_dir = RunDir(tmp_path / "borrower", lenders=(world.runtime.run_dir.root,))
    return World(replace(world.runtime, run_dir=run_dir), world.source)


def test_what_another_run_has_finished_is_borrowed(world, tmp_path):
    first = world.run()
    other = lent_to(world, tmp_path)
    result = other.run()
    assert (other.times, result.summary) == (0, dict(first.summary))
    assert (result.directory / "result").samefile(first.directory / "result")
    other.run(setting=1)  # not what the lender has
    assert other.times == 1 and not result.directory.is_symlink()
    assert world.run() and world.times == 1


def test_a_lender_that_begins_afresh_is_left_alone(world, tmp_path):
    directory = world.run().directory
    other = lent_to(world, tmp_path)
    other.run()
    manifest = read_manifest(directory)
    world.runtime.run_dir.record(directory, manifest.model_copy(update={"status": "running"}))
    result = other.run()
    assert other.times == 1 and not result.directory.is_symlink()
    assert (directory / "progress").read_text() == "x"
