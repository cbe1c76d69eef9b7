"""Ctrl-C: one line that says how to go on, and the shell's exit code for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf import cli
from rlhf.apps.run import REDONE

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "tiny.yaml")
PRESSED = "import signal; signal.raise_signal(signal.SIGINT)"


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def answer_of(monkeypatch, capsys, *arguments: str) -> tuple[object, str]:
    """Exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["rlhf", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code, capsys.readouterr().err


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
    said = f"rlhf: interrupted; {mend} from the last checkpoint\n"
    assert answer_of(monkeypatch, capsys, *arguments) == (130, said)


def test_sigterm_to_a_run_says_it_too(monkeypatch, capsys):
    def terminated(config: object, **options: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("rlhf.apps.run.run", terminated)
    said = "rlhf: interrupted; the same command goes on from the last checkpoint\n"
    assert answer_of(monkeypatch, capsys, "run", CONFIG) == (143, said)


@pytest.mark.parametrize(
    ("command", "work", "kept"),
    [
        ("policy", "evaluate_policy.evaluate_policy", "; the same command goes on, with the "),
        ("best-of-n", "best_of_n.sample", ""),
    ],
)
def test_what_is_no_stage_says_it_too(monkeypatch, capsys, command, work, kept):
    monkeypatch.setattr(f"rlhf.apps.{work}", interrupted)
    said = f"rlhf: interrupted{kept and kept + 'answers kept so far'}\n"
    assert answer_of(monkeypatch, capsys, "evaluate", command, "run") == (130, said)


def test_at_a_prompt_and_before_typer_has_begun(monkeypatch, capsys):
    class Keyboard:
        readline = interrupted

    monkeypatch.setattr(sys, "stdin", Keyboard())
    assert answer_of(monkeypatch, capsys, "init") == (130, "rlhf: interrupted\n")
    monkeypatch.setattr(cli, "app", interrupted)
    assert answer_of(monkeypatch, capsys, "init") == (130, "rlhf: interrupted\n")


def test_an_input_that_ends_at_a_prompt_is_no_interrupt(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    assert answer_of(monkeypatch, capsys, "init") == (1, "rlhf: broken off\n")


@pytest.mark.parametrize(("rank", "said"), [("0", "rlhf: interrupted\n"), ("1", "")])
def test_within_the_imports_it_ends_at_once(tmp_path, rank, said):
    """Also where the library that imports would go on without; of several processes one says it."""
    (tmp_path / "typer.py").write_text(f"try: {PRESSED}\nexcept BaseException: pass")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "rlhf", "--help"],
        env=os.environ | {"PYTHONPATH": paths, "RANK": rank},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


@pytest.mark.parametrize(
    ("before", "said"),
    [("", "KeyboardInterrupt\n"), ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "ignored\n")],
)
def test_elsewhere_it_is_what_it_was(before, said):
    code = f"""
import signal
{before}
from rlhf.__main__ import end_within_imports
end_within_imports()
try:
    {PRESSED}
    print("ignored")
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
