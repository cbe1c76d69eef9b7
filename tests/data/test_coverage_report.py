from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf.cli import app
from rlhf.config.paths import resource
from rlhf.data.coverage_report import write_coverage
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord
from rlhf.data.taxonomy import CategoryPath, Taxonomy

POETRY = ("writing_and_language", "literary_writing", "modern_poetry")
LYRICS = ("writing_and_language", "literary_writing", "song_lyrics")
PATHS: list[CategoryPath] = [POETRY] * 3 + [LYRICS, ("safety",), (), ("safety", "old", "older")]


def test_the_files_agree_with_the_counts(tmp_path: Path) -> None:
    taxonomy = Taxonomy.load(resource("data_schemas/taxonomy.yaml"))
    write_coverage(taxonomy.coverage(PATHS), taxonomy, tmp_path)
    report = json.loads((tmp_path / "coverage.json").read_text("utf-8"))
    assert (report["untagged"], report["unknown"]) == (1, {"safety/old/older": 1})
    first, _, third = report["levels"]
    assert (first["categories"], first["prompts"], third["prompts"]) == (6, 5, 4)
    assert third["counts"]["/".join(POETRY)] == 3 and "/".join(POETRY) not in third["gaps"]
    assert len(third["gaps"]) == third["categories"] - 2
    with (tmp_path / "coverage.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    assert len(rows) == sum(len(level) for level in taxonomy.levels)
    assert rows["/".join(LYRICS)]["share"] == "0.250000" and rows["safety"]["prompts"] == "1"
    assert rows["/".join(LYRICS)]["zh"] == "歌词"
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("paths", [[()], [POETRY]])
def test_almost_nothing_is_drawn_too(tmp_path: Path, paths: list[CategoryPath]) -> None:
    taxonomy = Taxonomy.load(resource("data_schemas/taxonomy.yaml"))
    write_coverage(taxonomy.coverage(paths), taxonomy, tmp_path)
    assert (tmp_path / "coverage.png").stat().st_size > 10_000


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    question = (Message(role="user", content="?"),)
    write_jsonl(
        tmp_path / "prompts.jsonl",
        (PromptRecord(id=str(n), messages=question, category=p) for n, p in enumerate(PATHS)),
    )
    arguments = ["data", "taxonomy", "coverage", str(tmp_path / "prompts.jsonl")]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--out", str(tmp_path)])
    assert shown.exit_code == 0
    assert "without a category: 1" in shown.output and "safety/old/older: 1" in shown.output
    assert "short_stories" in shown.output and "song_lyrics" not in shown.output
    assert (tmp_path / "coverage.json").is_file()
