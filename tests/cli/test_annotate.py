from __future__ import annotations

from pathlib import Path

import pytest
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


def test_a_password_in_another_encoding(tmp_path: Path) -> None:
    collect_folder(tmp_path)
    command = ["annotate", str(tmp_path), "--add-user", "ann"]
    with pytest.raises(ValueError, match="the password is not UTF-8: convert it"):
        CliRunner().invoke(
            cli.app, command, input="密码密码密码".encode("gb18030"), catch_exceptions=False
        )
