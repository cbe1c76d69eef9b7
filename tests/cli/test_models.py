from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf import cli
from rlhf.models.checkpoint import check_checkpoint
from tests.llamas import byte_level_tokenizer, write_llama

Checkpoint = Callable[..., Path]


def test_export(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path, out = checkpoint("baichuan-7b"), tmp_path / "out"
    done = CliRunner().invoke(cli.app, ["export", str(path), str(out), "--to", "official"])
    assert (done.exit_code, done.output) == (0, f"{path} -> {out} (official)\n")
    check_checkpoint(out, "baichuan-7b")


def test_export_over_something(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(checkpoint())
    monkeypatch.setattr(sys, "argv", ["rlhf", "export", path, path])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    error = capsys.readouterr().err
    assert error == f"rlhf: {path}: already there and not an empty directory; name a new one\n"


def test_import(tmp_path: Path) -> None:
    write_llama(tmp_path / "llama")
    byte_level_tokenizer().save_pretrained(tmp_path / "llama")
    command = ["import-llama", str(tmp_path / "llama"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, command)
    said = f"{tmp_path}/llama -> {tmp_path}/out (baichuan-7b)\n"
    assert (done.exit_code, done.output) == (0, said)
    check_checkpoint(tmp_path / "out", "baichuan-7b")
