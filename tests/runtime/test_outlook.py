from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.runtime.outlook import outlook
from rlhf.runtime.steps import Step, Waiting, execute


@pytest.fixture
def step(runtime, tmp_path) -> Step:
    """Copies its input."""

    def work(step: Step) -> dict[str, float | int | str | None]:
        (step.directory / "result").write_text(step.inputs["source"].read_text())
        return {}

    (tmp_path / "source").write_text("text")
    directory = runtime.stage_dir("rm")
    return Step("rm", "rm", directory, (0,), {"source": tmp_path / "source"}, work)


def test_each_outlook(step, runtime):
    """What is foretold, without a file being written, and what then happens are the same."""
    assert outlook(step, runtime, ()) == ("run", "not begun")
    assert not step.directory.exists()
    execute(step, runtime)
    assert outlook(step, runtime, ()).action == "reuse"
    other = replace(step, sections=(1,))
    assert outlook(other, runtime, ()) == ("run", "its config changed; old results go to aside/")
    step.inputs["source"].write_text("another")
    both = "its config changed and source changed; old results go to aside/"
    assert outlook(other, runtime, ()).reason == both
    step.inputs["source"].write_text("text")
    (step.directory / "result").unlink()
    assert outlook(step, runtime, ()) == ("run", "result is no longer there")


def test_what_waits_is_resumed(step, runtime):
    def wait(_: Step) -> None:
        raise Waiting("for people")

    execute(replace(step, work=wait), runtime)
    found = outlook(step, runtime, ())
    assert found.action == "resume" and found.reason.startswith("waiting since 20")
    watched = replace(step, sections=(0, "alarm"), lasting=step.sections)
    found = outlook(watched, runtime, ())
    assert found.action == "resume" and found.reason.endswith("only what watches it has changed")


def test_what_follows_a_change(step, runtime):
    source = step.inputs["source"]
    coming = [source.parent]
    assert outlook(step, runtime, coming) == ("run", "source made anew first")
    execute(step, runtime)
    again = "source made anew first; reused if equal to before"
    assert outlook(step, runtime, coming) == ("run", again)
    assert outlook(step, runtime, [Path("elsewhere")]).action == "reuse"
    source.unlink()
    assert outlook(step, runtime, coming).action == "run"
    with pytest.raises(ValueError, match="which is not there; check the path"):
        outlook(step, runtime, ())


def test_what_nothing_makes_is_told_beside_what_is_made(step, runtime):
    step.inputs["other"] = step.directory / "absent"
    with pytest.raises(ValueError, match=r"\(other\), which is not there; run stage rm first"):
        outlook(step, runtime, [step.inputs["source"]])
    without = replace(runtime, stages=("sft",))
    with pytest.raises(ValueError, match="add rm, which makes it, to stages in the config"):
        outlook(step, without, [step.inputs["source"]])
