from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf import cli


def test_chat(checkpoint: Callable[..., Path]) -> None:
    command = ["chat", str(checkpoint()), "--max-new-tokens", "4", "--seed", "1"]
    first, again = (CliRunner().invoke(cli.app, command, input="你好\n世界\n") for _ in range(2))
    assert first.exit_code == 0 and first.stdout.count("\n") >= 2
    assert first.stdout == again.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "{}: no config.json, so no checkpoint; name a model directory"),
        (
            ["--seed", str(2**63)],
            "--seed 9223372036854775808: choose one from -9223372036854775808 to "
            "9223372036854775807",
        ),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlhf", "chat", str(tmp_path), *options])
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err == f"rlhf: {told.format(tmp_path)}\n"
