from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rlhf.data.formats import convert
from rlhf.data.formats.rows import Row
from rlhf.data.formats.sources import sources
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import SFTRecord


def rows(place: Path | str) -> dict[str, list[tuple[int, Any]]]:
    """Name -> (line, value or problem) of its rows."""

    def shown(row: Row) -> tuple[int, Any]:
        return row.line, row.problem or row.value

    return {name: list(map(shown, read())) for name, read in sources(str(place))[0].items()}


def test_parquet_has_numbers_for_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = [{"a": 1, "b": {"c": "好"}}, {"a": None, "b": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    assert rows(path) == {"a.parquet": [(1, table[0]), (2, table[1])]}
    path.write_bytes(path.read_bytes()[:-9])
    ((line, problem),) = rows(path)["a.parquet"]
    assert line == 1 and "damaged from here on" in problem


def test_csv_cells_may_span_lines_and_a_bad_row_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    content = '\ufeffinstruction,output\r\n"one\nmore",好\r\na,b,c\r\n\r\nd\r\n'.encode()
    path.write_bytes(content + b"e,\xff\r\n")
    assert rows(path)["a.csv"] == [
        (2, {"instruction": "one\nmore", "output": "好"}),
        (4, "more cells than the first line names"),
        (5, {"instruction": "d", "output": None}),
        (7, "not UTF-8, or an escape of half a character"),
    ]


def test_a_folder_of_tables(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.csv").write_text("instruction,output\nq,1\nq,\n")
    table = pyarrow.Table.from_pylist([{"instruction": "q", "output": "2"}])
    pyarrow.parquet.write_table(table, source / "b.parquet")
    (source / "README.md").write_text("about")
    report = convert("alpaca", source, tmp_path / "out")
    assert report.files == {"a.csv": 2, "b.parquet": 1} and report.ignored == ("README.md",)
    assert report.reasons == {"messages.1.content: the text is empty": 1}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two splits under user/name, streamed from a folder by the library's own loader."""
    folder = tmp_path / "hub"
    folder.mkdir()
    train = [{"instruction": "q", "output": "1"}, {"instruction": "q", "output": None}]
    for split, table in (("train", train), ("test", train[:1])):
        lines = "".join(json.dumps(row) + "\n" for row in table)
        (folder / f"{split}.jsonl").write_text(lines)
    load = datasets.load_dataset

    def loader(name: str, **options: Any) -> Any:
        assert options["streaming"] and name == "user/name"
        return load(str(folder), cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr(datasets, "load_dataset", loader)


@pytest.mark.usefixtures("hub")
def test_a_dataset_on_the_hub_or_one_split_of_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = convert("alpaca", "user/name", out)
    assert report.files == {"user/name:train": 2, "user/name:test": 1}
    (rejected,) = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    assert (rejected["file"], rejected["line"]) == ("user/name:train", 2)
    assert rejected["reason"] == "field 'output' is not text but NoneType"
    assert convert("alpaca", "user/name:test", out).files == {"user/name:test": 1}
    (record,) = read_jsonl(out / "records.jsonl", SFTRecord)
    assert record.id == "user/name:test:1" and record.source == "user/name:test"
    with pytest.raises(ValueError, match=r"user/name: no such file .*Bad split: valid"):
        convert("alpaca", "user/name:valid", out)


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'user/name' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"Couldn't reach .* the dataset's folder"):
        convert("alpaca", "user/name", tmp_path / "out")
    with pytest.raises(ValueError, match=r"belle\.json: no such file or folder$"):
        convert("alpaca", "belle.json", tmp_path / "out")


def test_a_stream_that_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        yield {"instruction": "q", "output": "1"}
        raise ConnectionError("connection reset")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": broken()})
    with pytest.raises(ValueError, match="user/name:train: stopped after row 1: connection reset"):
        convert("alpaca", "user/name", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
