"""`rlhf data convert`, `validate` and `dedup`: what they print, write and exit with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf.cli import app

TEXT = "one two three four five six seven eight nine ten {}"


def prompt(identity: str, text: str) -> str:
    return json.dumps({"id": identity, "messages": [{"role": "user", "content": text}]}) + "\n"


def test_convert_says_what_it_left_out_and_why(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "notes.txt").write_text("hello")
    roles = ["user", *(f"role{n}" for n in range(6)), "role0"]
    lines = [json.dumps({"messages": [{"role": role, "content": "a"}]}) for role in roles]
    (source / "a.jsonl").write_text("\n".join(lines))
    command = ["data", "convert", "--from", "openai", "--in", str(source), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and f"0 records, 8 rejected -> {out}" in done.stdout
    assert "2 rejected, first at a.jsonl:2: role 'role0' is none of" in done.stdout
    assert "and for 2 other reasons" in done.stdout
    assert "no JSON, CSV or Parquet: notes.txt" in done.stdout
    assert CliRunner().invoke(app, [*command, "--strict"]).exit_code == 2


def test_validate_prints_or_keeps_bad_lines(tmp_path: Path) -> None:
    file, rejected = tmp_path / "p.jsonl", tmp_path / "rejected.jsonl"
    file.write_text(prompt("a", "why?") + "{\n" + prompt("b", "how?"))
    command = ["data", "validate", str(file), "--as", "prompt"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "2 good, 1 bad" in done.stdout
    assert f"{file}:2: not JSON" in done.stderr
    done = CliRunner().invoke(app, [*command, "--strict", "--rejected", str(rejected)])
    assert done.exit_code == 2 and done.stderr == ""
    assert [json.loads(line)["line"] for line in rejected.read_text().splitlines()] == [2]
    before = file.read_bytes()
    assert CliRunner().invoke(app, [*command, "--rejected", str(file)]).exit_code != 0
    assert file.read_bytes() == before


def test_dedup_refuses_leakage_unless_allowed(tmp_path: Path) -> None:
    train, held_out, out = (tmp_path / name for name in ("t.jsonl", "h.jsonl", "out"))
    train.write_text(prompt("a", TEXT.format("x")) + prompt("b", TEXT.format("y")))
    held_out.write_text(prompt("c", TEXT.format("z")))
    command = ["data", "dedup", str(train), "--out", str(out), "--threshold", "0.7"]
    assert CliRunner().invoke(app, command).exit_code == 0
    command += ["--against", str(held_out)]
    with pytest.raises(ValueError, match="1 held-out documents"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    done = CliRunner().invoke(app, [*command, "--allow-leakage"])
    assert done.exit_code == 0 and "1 of 2 documents kept" in done.stdout
    assert json.loads((out / "report.json").read_text())["leaked"] == 1
