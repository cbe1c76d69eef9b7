from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlhf.data.jsonl import write_jsonl
from rlhf.evaluation.rm_report import write
from rlhf.runtime.files import hash_path
from tests.evaluation.pages import read_page, untranslated
from tests.evaluation.rows import make_rows


def test_pairs_alone_give_the_whole_report(run_dir: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(run_dir / "rm" / "pairs.jsonl", alone)
    folder, rm = write(alone)
    assert folder == alone / "report"
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "report.json", "rm_reliability.png", "rm_kendall.csv"} <= names
    assert {"rm_by_fixed_margin.csv", "rm_refusals.csv"} & names == {"rm_by_fixed_margin.csv"}
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["rm"] == json.loads(json.dumps(rm))
    page = read_page(folder / "index.html")
    assert "Simulated annotators" in page and "What these pairs cannot give" in page
    assert f"<code>rlhf evaluate best-of-n {alone}</code>" in page and "`" not in page
    assert "src=" not in page, "the page must load nothing"
    assert untranslated(page, rm["by_category"], rm["by_source"], rm["by_language"]) == []


def test_a_runs_report_and_hashes_stay_as_they_are(run_dir: Path) -> None:
    (run_dir / "report").mkdir()
    before = hash_path(run_dir / "rm")
    folder, _ = write(run_dir)
    assert folder == run_dir / "rm" / "report"
    page = read_page(folder / "index.html")
    assert f"<code>rlhf evaluate best-of-n {run_dir}</code> samples the answers for it" in page
    assert list((run_dir / "report").iterdir()) == []
    assert hash_path(run_dir / "rm") == before, "PPO would start afresh"


def test_names_are_escaped_and_ungraded_pairs_have_a_page(tmp_path: Path) -> None:
    directory = tmp_path / "<b>"
    directory.mkdir()
    write_jsonl(directory / "pairs.jsonl", make_rows([1.0, -1.0], grade=None))
    folder, _ = write(directory)
    page = read_page(folder / "index.html")
    assert "<b>" not in page and "no held-out pair has a grade" in page
    assert not (folder / "rm_by_grade.png").exists()


def test_nothing_to_draw(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(ValueError, match="no held-out pairs"):
        write(tmp_path)
