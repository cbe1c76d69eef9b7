"""What every command has: help with an example; one line for what was typed wrongly; completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rlhf import cli

PROMISED = (
    "run sft collect rm ppo evaluate data annotate chat serve export import-llama prune plan "
    "doctor init lineage"
).split()


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command that does something itself."""
    commands = getattr(command, "commands", None)
    if commands is None:
        yield path
    for name, inner in (commands or {}).items():
        yield from leaves(inner, (*path, name))


COMMANDS = list(leaves(get_command(cli.app)))


def test_every_promised_command_is_there():
    assert set(PROMISED) <= {path[0] for path in COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example(path):
    done = CliRunner().invoke(cli.app, [*path, "--help"], env={"COLUMNS": "200"})
    shown = " ".join(done.stdout.split())
    called = " ".join(path[:1] if path[-1] == "stage" else path)  # rlhf evaluate CONFIG
    assert done.exit_code == 0 and "Example" in shown and f"rlhf {called} " in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--frm", "rm"], "No such option: --frm (Possible options: --from); see rlhf run"),
        (["export", "model"], "Missing argument 'OUT'; see rlhf export --help"),
        (["zzz"], "No such command 'zzz'; see rlhf --help"),
        (["chat", "model", "--seed", "x"], "Invalid value for '--seed': "),
        (["run", "tiny", "--set"], "Option '--set' requires an argument; see rlhf"),
    ],
)
def test_what_was_typed_wrongly_is_one_line(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rlhf", *arguments])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    error = capsys.readouterr().err
    assert error.startswith(f"rlhf: {said}") and error.count("\n") == 1


def test_no_arguments_are_answered_with_help_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rlhf"])
    with pytest.raises(SystemExit):
        cli.main()
    captured = capsys.readouterr()
    assert "Usage: rlhf" in captured.out and captured.err == ""


def test_completion():
    """As the script that `rlhf --install-completion` installs asks for it."""
    asked = {"_RLHF_COMPLETE": "complete_bash", "COMP_WORDS": "rlhf ev", "COMP_CWORD": "1"}
    code = "from rlhf.cli import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
    )
    assert answer.stdout.split() == ["evaluate"]
