"""Ctrl-C: one line that says how to go on, and the shell's exit code for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rlhf import cli
from rlhf.apps.run import REDONE

CONFIG = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["run", CONFIG], "the same command goes on"),
        (["ppo", CONFIG], "the same command goes on"),
        (["run", CONFIG, "--redo", "ppo"], "the same command goes on"),
        (["run", CONFIG, "--redo", "sft"], "the same command without --redo goes on"),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(monkeypatch, capsys, arguments, mend):
    def interrupted(config: object, redo: str | None, **options: object) -> None:
        error = KeyboardInterrupt()
        if redo == "sft":
            error.add_note(REDONE)  # as a run does that has begun the stage anew
        raise error

    monkeypatch.setattr("rlhf.apps.run.run", interrupted)
    monkeypatch.setattr(sys, "argv", ["rlhf", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 130
    assert capsys.readouterr().err == f"rlhf: interrupted; {mend} from the last checkpoint\n"
