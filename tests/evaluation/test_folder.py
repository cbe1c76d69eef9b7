from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.evaluation.folder import check_folder, write_folder


def write(folder: Path, page: str = "<p>") -> None:
    write_folder(folder, page, {"a": 1}, [], {"table": [{"x": 1}]})


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write(folder)
    (folder / "old.png").touch()
    write(folder, "<b>")
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.json", "table.csv"}
    assert (folder / "index.html").read_text() == "<b>"


def test_anything_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thesis = tmp_path / "docs" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    own = tmp_path / "own" / "table.csv"  # of a suffix like ours, but of no report
    own.parent.mkdir()
    own.touch()
    run = tmp_path / "run"
    write(run)
    (run / "sft").mkdir()
    for folder, named in ((thesis.parent, "thesis.txt"), (own.parent, "table.csv"), (run, "sft")):
        with pytest.raises(ValueError, match=f"holds {named}, .* would be deleted"):
            write(folder)
    with pytest.raises(ValueError, match="a file, and the report is a folder"):
        check_folder(thesis)
    monkeypatch.chdir(thesis.parent)
    with pytest.raises(ValueError, match="holds thesis.txt"):
        write(Path("."))
    assert thesis.read_text() == "mine" and own.exists() and (run / "sft").is_dir()
