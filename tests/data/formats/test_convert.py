from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.formats import convert
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import RankingRecord, SFTRecord

REAL = Path(__file__).parents[4] / "shared" / "data"


def alpaca(output: str) -> str:
    return json.dumps({"instruction": "q", "input": "", "output": output}, ensure_ascii=False)


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def test_one_row_gives_one_line(tmp_path: Path) -> None:
    source, out = tmp_path / "belle.jsonl", tmp_path / "out"
    source.write_text("\n".join([alpaca("一"), "{", "", alpaca(""), alpaca("二")]))
    report = convert("alpaca", source, out)
    assert (report.records, report.rejected) == (2, 2)
    assert report.reasons == {
        "not JSON: Expecting property name enclosed in double quotes": 1,
        "messages.1.content: the text is empty": 1,
    }
    assert list(report.first.values()) == ["belle.jsonl:2", "belle.jsonl:4"]
    records = list(read_jsonl(out / "records.jsonl", SFTRecord))
    assert [(record.id, record.messages[1].content) for record in records] == [
        (f"{tmp_path.name}/belle.jsonl:1", "一"),
        (f"{tmp_path.name}/belle.jsonl:4", "二"),
    ]
    first, second = rejected(out)
    assert (first["file"], first["line"], first["row"], first["content"]) == (
        "belle.jsonl",
        2,
        2,
        "{",
    )
    assert (second["line"], second["row"]) == (4, 3)
    assert json.loads(second["content"])["output"] == ""


def test_equal_prompts_share_their_id_over_rows_files_and_formats(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()

    def rows(name: str, questions: list[str]) -> None:
        pairs = [
            {"prompt": q, "chosen": f"yes {i}", "rejected": "no"} for i, q in enumerate(questions)
        ]
        (source / name).write_text("\n".join(map(json.dumps, pairs)))

    rows("a.jsonl", ["why?", "why?", "how?"])
    rows("b.jsonl", ["how?", "Why?"])
    convert("trl-preference", source, tmp_path / "trl")
    records = list(read_jsonl(tmp_path / "trl" / "records.jsonl", RankingRecord))
    assert [record.id for record in records] == [
        *("in/a.jsonl:1", "in/a.jsonl:2", "in/a.jsonl:3"),
        *("in/b.jsonl:1", "in/b.jsonl:2"),
    ]
    why, again, how, same, capital = (record.prompt.id for record in records)
    assert why == again != how == same and capital not in (why, how)

    said = {key: f"\n\nHuman: why?\n\nAssistant: {key}" for key in ("chosen", "rejected")}
    (tmp_path / "hh.jsonl").write_text(json.dumps(said))
    convert("hh-rlhf", tmp_path / "hh.jsonl", tmp_path / "hh")
    (record,) = read_jsonl(tmp_path / "hh" / "records.jsonl", RankingRecord)
    assert record.prompt.id == why


def test_a_folder_with_gzip_and_files_of_other_kinds(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    (source / "LICENSE").write_text("MIT")
    (source / "b.json").write_text(f"[{alpaca('1')}, {alpaca('2')}]")
    (source / "deep" / "a.jsonl.gz").write_bytes(gzip.compress(alpaca("3").encode()))
    (source / "empty.jsonl").write_text("")
    report = convert("alpaca", source, tmp_path / "out")
    assert report.files == {"b.json": 2, "deep/a.jsonl.gz": 1, "empty.jsonl": 0}
    assert report.ignored == ("LICENSE",)
    ids = [record.id for record in read_jsonl(tmp_path / "out" / "records.jsonl", SFTRecord)]
    assert ids == ["in/b.json:1", "in/b.json:2", "in/deep/a.jsonl.gz:1"]


def test_files_of_one_name_in_two_folders_give_unlike_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    for folder in ("helpful", "harmless"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text(alpaca("a"))
        monkeypatch.chdir(tmp_path / folder)
        for place in ("test.jsonl", "../" + folder, tmp_path / folder / "test.jsonl"):
            convert("alpaca", place, tmp_path / "out")
            (record,) = read_jsonl(tmp_path / "out" / "records.jsonl", SFTRecord)
            ids.append(record.id)
    assert ids == ["helpful/test.jsonl:1"] * 3 + ["harmless/test.jsonl:1"] * 3


def test_lone_surrogates_and_wrong_encoding_are_kept_readable(tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out"
    source.write_bytes(alpaca("\\").replace("\\\\", "\\ud800").encode() + b"\n\xff\n")
    report = convert("alpaca", source, out)
    assert (report.records, report.rejected) == (0, 2)
    assert ["not UTF-8" in row["reason"] for row in rejected(out)] == [True, True]
    assert rejected(out)[1]["content"] == "\udcff"


def test_a_record_is_one_line_for_every_reader(tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out"
    text = "a\u2028b\u2029c\x85d\re\x0bf"
    source.write_text(alpaca(text) + "\n" + alpaca(text).replace("instruction", "q"), newline="")
    report = convert("alpaca", source, out)
    assert (report.records, report.rejected) == (1, 1)
    for name in ("records.jsonl", "rejected.jsonl"):
        assert len((out / name).read_text().splitlines()) == 1
    (record,) = read_jsonl(out / "records.jsonl", SFTRecord)
    assert record.messages[1].content == text
    assert text in json.loads(rejected(out)[0]["content"]).values()


def test_a_cell_too_long_for_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"instruction,output\nq,{'x' * 5_000_000}\nq,a\n")
    report = convert("alpaca", tmp_path / "a.csv", tmp_path / "out")
    assert (report.records, report.rejected) == (1, 1)
    assert "longer than" in rejected(tmp_path / "out")[0]["reason"]
    assert len(list(read_jsonl(tmp_path / "out" / "records.jsonl", SFTRecord))) == 1


def test_a_second_conversion_replaces_the_first(tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out"
    for output in ("one", "two"):
        source.write_text(alpaca(output))
        convert("alpaca", source, out)
    (record,) = read_jsonl(out / "records.jsonl", SFTRecord)
    assert record.messages[1].content == "two"
    assert sorted(path.name for path in out.iterdir()) == ["records.jsonl", "rejected.jsonl"]


def test_users_mistakes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(ValueError, match="'messages'; did you mean 'openai'"):
        convert("messages", folder, tmp_path)
    with pytest.raises(ValueError, match="'alpacca'; did you mean 'alpaca'"):
        convert("alpacca", folder, tmp_path / "out")
    with pytest.raises(ValueError, match="no file in it ends with"):
        convert("alpaca", folder, tmp_path / "out")
    with pytest.raises(ValueError, match="no such file or folder"):
        convert("alpaca", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ValueError, match="is inside"):
        convert("alpaca", folder, folder / "out")
    (folder / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no rows"):
        convert("alpaca", folder, tmp_path / "out")
    source = tmp_path / "records.jsonl"
    source.write_text('{"instruction": "a", "output": "b"}\n')
    with pytest.raises(ValueError, match="would be overwritten; name another folder with --out"):
        convert("alpaca", source, tmp_path)
    assert source.stat().st_size
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the published sample files")
@pytest.mark.parametrize(
    ("format", "name", "records", "dropped"),
    [
        ("alpaca", "alpaca_zh_demo.json", 1000, 0),
        ("llamafactory-preference", "dpo_zh_demo.json", 300, 0),
        ("hh-rlhf", "hh_harmless.jsonl", 1791, 9),
        ("moss-003", "moss/plugin_calculator.jsonl", 100, 0),
        ("moss-003", "moss", 320, 420),
        ("prompts", "moss/user_prompts.jsonl", 420, 0),
    ],
)
def test_published_files(
    tmp_path: Path, format: str, name: str, records: int, dropped: int
) -> None:
    report = convert(format, REAL / name, tmp_path)
    assert (report.records, report.rejected) == (records, dropped)
