from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.paths import resource
from rlhf.data.jsonl import MAX_LINE_BYTES, Rejection
from rlhf.data.records import SFTRecord
from rlhf.data.taxonomy import Taxonomy
from rlhf.data.validate import Counts, good_records, none_of, validate
from tests.data.test_records import demonstration, ranking

TAXONOMY = Taxonomy.load(resource("data_schemas/taxonomy.yaml"))
KNOWN = list(next(iter(TAXONOMY.levels[2])))


def check(path: Path, *lines: Any, kind: str = "sft") -> tuple[Counts, list[Rejection]]:
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in raw))
    told: list[Rejection] = []
    return validate(path, kind, TAXONOMY, told.append), told


def test_every_bad_line_is_told_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl"
    empty = [{"role": "user", "content": " "}, {"role": "assistant", "content": "a"}]
    counts, told = check(
        path,
        demonstration("a", category=KNOWN),
        b"{not json",
        json.dumps(demonstration("b", source="众包"), ensure_ascii=False).encode("gb18030"),
        b"",
        {"id": "c"},
        demonstration("d", category=["no", "such"]),
        demonstration("a"),
        demonstration("e", messages=empty),
        b'{"id": "f", "source": "' + b"x" * 10_000_000 + b'"}',
        demonstration("c"),
    )
    assert counts == (2, 7)
    reasons = {rejection.line: rejection.reason for rejection in told}
    assert list(reasons) == [2, 3, 5, 6, 7, 8, 9]
    assert reasons[2] == "not JSON: key must be a string at column 2"
    assert reasons[3] == "not UTF-8 but, as it seems, GBK or GB18030: save the file as UTF-8"
    assert reasons[5] == "messages: Field required"
    assert "no category 'no / such'" in reasons[6]
    assert reasons[7] == "id 'a' is on line 1 already; ids are unique"
    assert reasons[8] == "messages.0.content: the text is empty"
    assert str(MAX_LINE_BYTES) in reasons[9]
    assert str(told[0]) == f"{path}:2: {reasons[2]}" and told[0].content == "{not json"
    assert max(len(rejection.to_json()) for rejection in told) < 5000


def test_rankings(tmp_path: Path) -> None:
    good = ranking()
    counts, told = check(
        tmp_path / "r.jsonl",
        good,
        ranking(id="b", ranks=[1, 3, 3]),
        ranking(id="c", grades=[6]),
        ranking(id="d", prompt=good["prompt"] | {"category": ["no"]}),
        kind="ranking",
    )
    assert counts == (1, 3)
    told_reasons = [rejection.reason for rejection in told]
    assert "not a ranking" in told_reasons[0] and "grades.0" in told_reasons[1]
    assert "no category 'no'" in told_reasons[2]


def test_prompts_are_no_demonstrations(tmp_path: Path) -> None:
    prompt = {"id": "p", "messages": [{"role": "user", "content": "Q"}], "category": KNOWN[:1]}
    assert check(tmp_path / "p.jsonl", prompt, kind="prompt")[0] == (1, 0)
    assert check(tmp_path / "p.jsonl", prompt, kind="sft")[0] == (0, 1)


def test_texts(tmp_path: Path) -> None:
    rows = {"id": "a", "text": "once"}, {"id": "b", "text": " "}
    assert check(tmp_path / "t.jsonl", *rows, kind="text")[0] == (1, 1)


def test_a_damaged_archive_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = "".join(json.dumps(demonstration(str(i))) + "\n" for i in range(1000))
    path.write_bytes(gzip.compress(rows.encode())[:-200])
    told: list[Rejection] = []
    counts = validate(path, "sft", TAXONOMY, told.append)
    assert 0 < counts.good < 1000 and counts.bad == 1
    assert told[0].line == counts.good + 1 and "damaged" in told[0].reason


def test_good_records_come_and_the_bad_lines_are_told(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl"
    rows = [demonstration("a"), {"id": "b"}, demonstration("a"), demonstration("c")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: list[Rejection] = []
    assert [record.id for record in good_records(path, SFTRecord, told.append)] == ["a", "c"]
    assert [rejection.line for rejection in told] == [2, 3]
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="no sft record in it; mend what is named above"):
        list(good_records(path, SFTRecord, told.append))
    path.write_text("\n")
    with pytest.raises(ValueError, match="no records in this file"):
        list(good_records(path, SFTRecord, told.append))


def test_a_file_of_another_kind_is_told_by_its_first_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    check(path, *[ranking(id=str(number)) for number in range(30)])
    for kind in ("sft", "prompt", "text"):
        assert str(none_of(path, kind)) == f"{path}: no {kind} record in it; its lines are " + (
            "ranking records"
        )
    check(path, demonstration("a"), ranking())  # a bit of each is no kind
    assert "mend what is named above" in str(none_of(path, "text"))


def test_unknown_kind_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'sfd': use sft, prompt, ranking"):
        validate(tmp_path / "a", "sfd", TAXONOMY, print)
    with pytest.raises(ValueError, match="no such file"):
        validate(tmp_path / "a", "sft", TAXONOMY, print)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="no records in this file"):
        validate(tmp_path / "empty", "sft", TAXONOMY, print)
