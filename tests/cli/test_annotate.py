from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from rlhf import cli
from rlhf.apps.annotate.accounts import is_password
from tests.apps.annotate.worlds import collect_folder


def test_without_a_terminal_the_password_is_the_first_line_of_the_input(tmp_path: Path) -> None:
    database = collect_folder(tmp_path).database
    command = ["annotate", str(tmp_path), "--add-user", "ann"]
    result = CliRunner().invoke(cli.app, command, input="long enough\nanother\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"ann can sign in: rlhf annotate {tmp_path}\n"
    assert is_password(database, "ann", "long enough")
