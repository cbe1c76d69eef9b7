"""`rlhf data convert`, `validate` and `dedup`: what they print, write and exit with."""

from __future__ import annotations

import gzip
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
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")]
    (source / "b.jsonl").write_text(json.dumps({"messages": turns}))
    command = ["data", "convert", "--from", "openai", "--in", str(source), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and f"1 records, 8 rejected -> {out}" in done.stdout
    assert "2 rejected, first at a.jsonl:2: role 'role0' is none of" in done.stdout
    assert "and for 2 other reasons" in done.stdout
    assert "no JSON, CSV, TSV, Parquet or Arrow: notes.txt" in done.stdout
    assert CliRunner().invoke(app, [*command, "--strict"]).exit_code == 2
    (source / "b.jsonl").unlink()
    done = CliRunner().invoke(app, command)
    assert f"0 records, 8 rejected -> {out}" in done.stdout
    with pytest.raises(ValueError, match=r"no row of it is openai: give --from the format"):
        raise done.exception or AssertionError


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


def test_many_bad_lines_are_told_by_their_reasons(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    twice = [prompt("a", f"question {n}") for n in range(7)]  # six ids come again: one reason
    file.write_text("{\n" * 3 + "".join(twice) + "[]\n")
    done = CliRunner().invoke(app, ["data", "validate", str(file), "--as", "prompt"])
    assert done.exit_code == 0 and "1 good, 10 bad" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{file}:1: not JSON") and lines[0].endswith("(and 2 more lines so)")
    assert lines[1].endswith("on line 4 already; ids are unique (and 5 more lines so)")
    assert lines[2].startswith(f"{file}:11: ") and "more" not in lines[2]
    named = "".join(prompt("b", "why?").replace('"b"', f'"b", "key{n}": 1') for n in range(9))
    file.write_text(named + twice[0])
    done = CliRunner().invoke(app, ["data", "validate", str(file), "--as", "prompt"])
    assert len(done.stderr.splitlines()) == 6
    assert done.stderr.endswith("and 4 bad lines for other reasons\n")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file, out = tmp_path / "p.jsonl", tmp_path / "out"
    file.write_text("".join(prompt(str(n), "why?") for n in range(30)))
    done = CliRunner().invoke(app, ["data", "validate", str(file), "--as", "sft"])
    assert "0 good, 30 bad" in done.stdout and len(done.stderr.splitlines()) == 1
    with pytest.raises(ValueError, match="no sft record in it; its lines are prompt records"):
        raise done.exception or AssertionError
    file.write_text("".join(f'{{"id": "{n}", "text": "why?"}}\n' for n in range(30)))
    for command in (["taxonomy", "tag"], ["taxonomy", "coverage"], ["curate"]):
        done = CliRunner().invoke(app, ["data", *command, str(file), "--out", str(out)])
        assert len(done.stderr.splitlines()) == 1 and "(and 29 more lines so)" in done.stderr
        with pytest.raises(ValueError, match="record in it; its lines are text records"):
            raise done.exception or AssertionError
    assert not list(out.glob("*"))


def test_bad_lines_are_told_the_rest_is_used_and_strict_minds(tmp_path: Path) -> None:
    prompts, sft, out = tmp_path / "p.jsonl", tmp_path / "s.jsonl", tmp_path / "out"
    prompts.write_text(prompt("a", "Which flour for sourdough bread?") + "{\n")
    answered = {"role": "assistant", "content": "wheat"}
    work = {**json.loads(prompt("a", "why?")), "source": "c", "annotator": "x", "batch": "1"}
    work["messages"].append(answered)
    sft.write_text(json.dumps(work) + "\n[]\n")
    for command, file in [
        (["taxonomy", "tag"], prompts),
        (["taxonomy", "coverage"], prompts),
        (["curate"], sft),
    ]:
        called = ["data", *command, str(file), "--out", str(out)]
        done = CliRunner().invoke(app, called)
        assert done.exit_code == 0, done.output
        assert f"{file}:2: " in done.stderr and "1 bad lines left out" in done.stderr
        assert CliRunner().invoke(app, [*called, "--strict"]).exit_code == 2
    assert len((out / "tagged.jsonl").read_text().splitlines()) == 1
    assert len((out / "sample.jsonl").read_text().splitlines()) == 1


def test_a_damaged_archive_is_deduplicated_as_far_as_it_goes(tmp_path: Path) -> None:
    file, out = tmp_path / "a.jsonl.gz", tmp_path / "out"
    texts = "".join(prompt(str(n), TEXT.format(n)) for n in range(500))
    file.write_bytes(gzip.compress(texts.encode())[:-200])
    done = CliRunner().invoke(app, ["data", "dedup", str(file), "--out", str(out), "--strict"])
    assert done.exit_code == 2 and "1 lines rejected" in done.stdout
    assert "damaged from here on" in (out / "rejected.jsonl").read_text()


def test_dedup_tells_of_ids_that_two_files_share(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for file, question in zip(files, ("Which flour for bread?", "Why is it dark?"), strict=True):
        file.write_text(prompt("1", question) + prompt(file.name, f"{question} Again."))
    out = tmp_path / "out"
    command = ["data", "dedup", *map(str, files), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and f"1 documents in {out}/kept.jsonl have the id" in done.stdout
    assert json.loads((out / "report.json").read_text())["repeated_ids"] == 1


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
