from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from rlhf.data.jsonl import write_jsonl
from rlhf.evaluation.compare import compare, lines, write
from rlhf.evaluation.drawing import shortened
from rlhf.evaluation.preference import PairRow
from tests.evaluation.pages import read_page, untranslated
from tests.evaluation.rows import make_rows


def pairs_of(directory: Path, rows: list[PairRow]) -> Path:
    directory.mkdir(parents=True)
    write_jsonl(directory / "pairs.jsonl", rows)
    return directory


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A reward model's directory, and a run's with one in it."""
    first = pairs_of(tmp_path / "first", make_rows([1.0, 2.0, 3.0, -1.0], grade=1))
    pairs_of(tmp_path / "second" / "rm", make_rows([1.0, -2.0, 3.0, -1.0], grade=4))
    return [first, tmp_path / "second"]


def test_a_row_a_model(models: list[Path]) -> None:
    comparison = compare(models)
    first, second = comparison.table
    assert [row["model"] for row in comparison.table] == [str(path) for path in models]
    assert (first["accuracy"], first["grade_1"], first["grade_4"]) == (0.75, 0.75, None)
    assert (second["accuracy"], second["grade_1"], second["grade_4"]) == (0.5, None, 0.5)
    assert first["accuracy_low"] == pytest.approx(0.3006, abs=1e-4)
    assert first["accuracy_high"] == pytest.approx(0.9544, abs=1e-4)
    assert (first["tau"], second["tau"]) == (0.5, 0.0)
    assert comparison.same_pairs


def test_the_difference_is_by_pair_and_clustered_by_prompt(models: list[Path]) -> None:
    first, second = compare(models).table
    assert first["difference"] is None
    # Of the four pairs one is right for the first alone. Residuals: 1/4 three times, -3/4.
    assert second["difference"] == -0.25
    assert second["difference_low"] == pytest.approx(-0.25 - 3.18244631 / 4)
    assert second["difference_high"] == pytest.approx(-0.25 + 3.18244631 / 4)
    found = {title: cells for title, *cells in lines([first, second])}
    expected = ["\u2013", "\u221225.0 (\u2212104.6 to +54.6)"]
    assert found["less the first, points"] == expected


def test_other_pairs_are_noticed(models: list[Path], tmp_path: Path) -> None:
    other = pairs_of(tmp_path / "other", make_rows([1.0, -1.0]))
    comparison = compare([models[0], other])
    assert not comparison.same_pairs and comparison.table[1]["difference"] is None


def test_lines_leave_out_what_no_model_has(models: list[Path]) -> None:
    found = {title: cells for title, *cells in lines(compare(models).table)}
    assert found["accuracy, %"] == ["75.0 (30.1 to 95.4)", "50.0 (15.0 to 85.0)"]
    assert found["grade 1, %"][1] == "\u2013"
    assert "grade 2, %" not in found and "noise-free, %" not in found


def test_written_files(models: list[Path], tmp_path: Path) -> None:
    comparison = compare(models)
    write(comparison, tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open(encoding="utf-8") as stream:
        assert [float(row["accuracy"]) for row in csv.DictReader(stream)] == [0.75, 0.5]
    content = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert content == {"same_pairs": True, "models": comparison.table}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "by_grade.png",
        "reliability.png",
    }
    page = read_page(tmp_path / "out" / "index.html")
    assert untranslated(page, [shortened(str(path)) for path in models]) == []
    assert "Not tested on the same" not in page
    assert "src=" not in page, "the page must load nothing"


def test_a_folder_keeps_what_is_not_the_comparisons(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    write(compare(models[:1]), tmp_path)
    assert (tmp_path / "mine.txt").is_file() and (tmp_path / "index.html").is_file()


def test_a_file_in_the_folder_s_place(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file: a file, and the report is a folder"):
        write(compare(models), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no held-out pairs in pairs.jsonl or rm/pairs.jsonl"):
        compare([tmp_path])
