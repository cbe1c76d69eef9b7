from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rlhf.data.charset import GBK
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
        (6, {"instruction": "d", "output": None}),
        (7, "not UTF-8, or an escape of half a character"),
    ]


def test_another_separator_is_named(tmp_path: Path) -> None:
    semicolons, bars, one = (tmp_path / name for name in ("a.csv", "b.tsv", "c.csv"))
    semicolons.write_text("prompt;chosen;rejected\nq;a, b;c\nq;a;c\n")
    said = "semicolons between the columns, not commas: save the file with commas as .csv, or with "
    assert rows(semicolons)["a.csv"] == [(2, f"{said}tabs as .tsv"), (3, f"{said}tabs as .tsv")]
    bars.write_text("prompt|chosen\nq|a\n")
    assert rows(bars)["b.tsv"][0][1].startswith("bars between the columns, not tabs")
    one.write_text("prompt\nq;a\n")
    assert rows(one)["c.csv"] == [(2, {"prompt": "q;a"})]


def test_gbk_is_named(tmp_path: Path) -> None:
    table, lines = tmp_path / "a.csv", tmp_path / "b.jsonl"
    table.write_bytes("instruction,output\n面包用哪种面粉？,高筋面粉。\n".encode("gbk"))
    lines.write_bytes('{"instruction": "面包用哪种面粉？"}\n'.encode("gbk"))
    assert rows(table)["a.csv"] == [(2, GBK)] and rows(lines)["b.jsonl"] == [(1, GBK)]


def test_a_quotation_mark_that_begins_a_cell_of_a_tsv_joins_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    lines = [
        "q\ti\ta",
        '"Start here\t\tfirst',
        'What is 5"\t\tsecond',
        '"Yes" he said\t\tthird',
        '4\t\t"fourth',
        '5"\t\tfifth',
        '"six\nlines"\t""\t"and ""quotes"""',
        '"last',
    ]
    path.write_text("\n".join(lines) + "\n")
    cells = [line.split("\t") for line in lines[1:6]]
    assert rows(path)["a.tsv"] == [
        *((n, dict(zip("qia", row, strict=True))) for n, row in enumerate(cells, start=2)),
        (7, {"q": "six\nlines", "i": "", "a": 'and "quotes"'}),
        (9, {"q": '"last', "i": None, "a": None}),
    ]


def test_text_that_is_not_utf_8_costs_its_parquet_row_alone(tmp_path: Path) -> None:
    path, places = tmp_path / "a.parquet", pyarrow.array([0, 1, 2, 3], pyarrow.int32()).buffers()[1]
    damaged = pyarrow.StringArray.from_buffers(3, places, pyarrow.py_buffer(b"a\xffc"))
    pyarrow.parquet.write_table(pyarrow.table({"q": damaged, "a": ["1", "2", "3"]}), path)
    first, second, third = rows(path)["a.parquet"]
    assert (first, third) == ((1, {"q": "a", "a": "1"}), (3, {"q": "c", "a": "3"}))
    assert second == (2, "not UTF-8, or an escape of half a character")
    (row,) = (row for row in sources(str(path))[0]["a.parquet"]() if row.problem)
    assert '"a": "2"' in row.text


def test_a_dataset_saved_to_disk(tmp_path: Path) -> None:
    table = [{"instruction": "q", "output": "1"}, {"instruction": "q", "output": "2"}]
    datasets.Dataset.from_list(table).save_to_disk(tmp_path / "saved")
    found = rows(tmp_path / "saved")["data-00000-of-00001.arrow"]
    assert found == [(1, table[0]), (2, table[1])]


def test_what_datasets_writes_beside_its_rows_is_no_data(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list([{"instruction": "q", "output": "a"}])
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "splits")
    for name, records in (("one", 1), ("splits", 2)):
        report = convert("alpaca", tmp_path / name, tmp_path / "out")
        assert (report.records, report.rejected) == (records, 0)
        assert {Path(file).name for file in report.files} == {"data-00000-of-00001.arrow"}
    assert "dataset_dict.json" in report.ignored and "test/state.json" in report.ignored
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "state.json").write_text('[{"instruction": "q", "output": "a"}]')
    assert convert("alpaca", tmp_path / "plain", tmp_path / "out").records == 1


def test_tables_separated_by_tabs_packed_or_with_capitals_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tsv").write_text("q\ta\n1,5\t2\n")
    (tmp_path / "in" / "B.CSV").write_text("\n\nq,a\n3,4\n")
    (tmp_path / "in" / "c.csv.gz").write_bytes(gzip.compress(b"q,a\n5,6\n"))
    assert rows(tmp_path / "in") == {
        "B.CSV": [(4, {"q": "3", "a": "4"})],
        "a.tsv": [(2, {"q": "1,5", "a": "2"})],
        "c.csv.gz": [(2, {"q": "5", "a": "6"})],
    }


def test_a_bad_row_of_a_csv_hides_none_after_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    long = "x" * 5_000_000
    path.write_text(f'q,a\n1,"open\n2,b\n3,"c"d\n4,{long}\n5,"e\nf"\n6,"end\n7,g\n')
    found = rows(path)["a.csv"]
    assert [line for line, _ in found] == [2, 3, 4, 5, 6, 8, 9]
    problems = {line: value for line, value in found if isinstance(value, str)}
    assert sorted(problems) == [2, 4, 8] and all("not CSV" in each for each in problems.values())
    values = [value for _, value in found if not isinstance(value, str)]
    assert values == [
        {"q": "2", "a": "b"},
        {"q": "4", "a": long},
        {"q": "5", "a": "e\nf"},
        {"q": "7", "a": "g"},
    ]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a,a\n1,2,3\n")
    assert rows(tmp_path / "a.csv")["a.csv"] == [(2, "two columns have the same name")]


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
    assert rejected["reason"] == "field 'output' is null"
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
