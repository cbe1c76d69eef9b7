from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.jsonl import MAX_LINE_BYTES, parse
from rlhf.data.records import (
    Message,
    PairGrade,
    PromptRecord,
    Provenance,
    RankingRecord,
    Response,
    SFTRecord,
    export_schemas,
    pair_grades,
    read_jsonl,
    write_jsonl,
)

SCHEMAS = Path(__file__).parents[2] / "data_schemas"


def demonstration(identity: str = "a", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好！"}]
    return {"id": identity, "messages": messages, "source": "crowd"} | changes


def ranking(**changes: Any) -> dict[str, Any]:
    source = {"family": "baichuan", "model": "m", "size": "7b", "stage": "sft"}
    responses = [{"id": name, "text": name, "provenance": source} for name in "xyz"]
    prompt = {"id": "p", "messages": [{"role": "user", "content": "why?"}]}
    fields = {
        "id": "r",
        "prompt": prompt,
        "responses": responses,
        "ranks": [2, 1, 2],
        "grades": [3],
    }
    return fields | changes


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_schemas_are_in_step(tmp_path: Path) -> None:
    export_schemas(tmp_path)
    exported = sorted(tmp_path.iterdir())
    assert [path.name for path in exported] == [
        "prompt.schema.json",
        "ranking.schema.json",
        "sft.schema.json",
        "text.schema.json",
    ]
    for path in exported:
        assert path.read_text() == (SCHEMAS / path.name).read_text(), (
            f"{path.name} is behind records.py: run export_schemas('data_schemas')"
        )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ranks": ["2", 1, 2]}, "ranks.0: Input should be a valid integer"),
        ({"ranks": [2, True, 2]}, "ranks.1: Input should be a valid integer"),
        ({"grades": [0]}, "grades.0: Input should be greater than"),
        ({"grades": ["3"]}, "grades.0: Input should be a valid integer"),
        ({"ranks": [2.0, 1.5, 2]}, "ranks.1: Input should be a valid integer"),
        ({"ranks": [2.0, True, 2]}, "ranks.1: Input should be a valid integer"),
        ({"ranks": [2.0, "1", 2]}, "ranks.1: Input should be a valid integer"),
        ({"grades": [6.0]}, "grades.0: Input should be less than or equal to 5"),
        ({"ranks": 1.0}, "ranks: Input should be a valid array"),
    ],
)
def test_ranks_and_grades_are_whole_numbers(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(json.dumps(ranking(**changes)), RankingRecord)


def test_a_whole_number_may_be_written_as_a_float() -> None:
    """As JSON Schema has it, whose `integer` takes 1.0 as well. It is kept as 1."""
    row = ranking()
    row["responses"][0] |= {"token_ids": [3, 2]}
    record = parse(json.dumps(row), RankingRecord)
    row |= {"ranks": [2.0, 1, 2.0], "grades": [3.0]}
    row["responses"][0] |= {"token_ids": [3.0, 2]}
    parsed = parse(json.dumps(row), RankingRecord)
    assert parsed == record and parsed.model_dump_json() == record.model_dump_json()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"token_ids": ["1"]}, "token_ids.0"),
        ({"token_ids": [True]}, "token_ids.0"),
        ({"provenance": {"sampling": {"temperature": "1"}}}, "provenance.sampling.temperature"),
        ({"provenance": {"sampling": {"temperature": True}}}, "provenance.sampling.temperature"),
    ],
)
def test_numbers_of_a_response_are_numbers(change: dict[str, Any], place: str) -> None:
    row = ranking()
    first = row["responses"][0]
    if "provenance" in change:
        change = {"provenance": first["provenance"] | change["provenance"]}
    row["responses"][0] = first | change
    with pytest.raises(ValueError, match=rf"responses\.0\.{place}"):
        parse(json.dumps(row), RankingRecord)


def test_times_as_others_write_them() -> None:
    for time in ("2026-11-24T04:00:00Z", "2026-11-24 04:00:00.25+08:00", "2026-11-24T04:00-0330"):
        parsed = parse(json.dumps(ranking(time=time)), RankingRecord)
        assert parsed.time is not None and parsed.time.utcoffset() is not None
        assert parse(parsed.model_dump_json(exclude_none=True), RankingRecord) == parsed


def test_a_ranking_has_two_responses_that_say_something() -> None:
    row = ranking()
    alone = row | {"responses": row["responses"][:1], "ranks": [1]}
    with pytest.raises(ValueError, match="responses: has 1 items where at least 2 must be"):
        parse(json.dumps(alone), RankingRecord)
    row["responses"][0]["text"] = " "
    with pytest.raises(ValueError, match=r"responses\.0: text: the text is empty"):
        parse(json.dumps(row), RankingRecord)
    # Sampled, as its tokens tell: a model may end at once.
    row["responses"][0]["token_ids"] = [2]
    assert parse(json.dumps(row), RankingRecord).responses[0].text == " "


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    provenance = Provenance(
        family="baichuan",
        model="m",
        size="7b",
        stage="ppo",
        sampling={"temperature": 0.7, "top_k": 5},
    )
    prompt = PromptRecord(
        id="p",
        messages=(
            Message(role="system", content="be brief"),
            Message(role="user", content="why\u2028?"),
        ),
        category=("a", "b", "c"),
        metadata={"slot": "1"},
    )
    record = RankingRecord.model_validate(
        {
            "id": "r",
            "prompt": prompt,
            "responses": [
                Response(id="x", text="", provenance=provenance, token_ids=(2,), stop_reason="eos"),
                Response(id="y", text="好", provenance=provenance),
            ],
            "ranks": [2, 1],
            "grades": [5],
            "annotator": "ann",
            "time": "2026-11-24T04:00:00Z",
        }
    )
    assert write_jsonl(tmp_path / "new" / "r.jsonl", [record]) == 1
    assert list(read_jsonl(tmp_path / "new" / "r.jsonl", RankingRecord)) == [record]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.jsonl"]


def test_prompt_text_is_the_last_user_turn() -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = tuple(
        Message.model_validate({"role": role, "content": text}) for role, text in turns
    )
    assert PromptRecord(id="p", messages=messages).text == "three"


def test_reads_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(b"\xef\xbb\xbf" + json.dumps(demonstration()).encode() + b"\n\n")
    assert [record.id for record in read_jsonl(path, SFTRecord)] == ["a"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (demonstration(messages=[]), "messages"),
        (demonstration(label="nice"), "label: Input should be 'helpful' or 'harmless'"),
        (demonstration(lable="helpful"), "lable: there is no such field"),
        (
            demonstration(messages=[{"role": "user", "content": "a"}]),
            "the last turn must be 'assistant'",
        ),
        (demonstration(messages=[{"role": "assistant", "content": "a"}]), "'user' was expected"),
        (demonstration(messages=[{"role": "system", "content": "a"}]), "the last turn must be"),
        (
            demonstration(messages=[{"role": "user", "content": " \n"}]),
            "messages.0.content: the text is",
        ),
        ({"id": "a"}, "messages: Field required"),
    ],
)
def test_bad_sft_row_names_file_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    path = lines(tmp_path / "bad.jsonl", demonstration("good"), row)
    with pytest.raises(ValueError) as caught:
        list(read_jsonl(path, SFTRecord))
    assert f"{path}:2: " in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": [1, 3, 1]}, "not a ranking"),
        ({"ranks": [0, 1, 2], "grades": [1, 1]}, "not a ranking"),
        ({"ranks": [1, 2]}, "2 ranks for 3 responses"),
        ({"grades": [6]}, "grades.0: Input should be less than or equal to 5"),
        ({"grades": [1, 2]}, "2 grades for 2 distinct ranks"),
        ({"time": "2026-11-24T04:00:00"}, "time: "),
        ({"time": 12}, "time: no time with its zone; write it as 2026-10-01T12:00:00Z"),
        ({"time": "1700000000"}, "time: no time with its zone"),
        ({"simulated": "yes"}, "simulated: Input should be a valid boolean"),
        ({"simulated": 1}, "simulated: Input should be a valid boolean"),
    ],
)
def test_bad_ranking(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(json.dumps(ranking(**changes)), RankingRecord)


def test_responses_of_one_record_have_distinct_ids() -> None:
    row = ranking()
    row["responses"][1] = row["responses"][0]
    with pytest.raises(ValueError, match="same id"):
        parse(json.dumps(row), RankingRecord)


def test_duplicate_ids_and_empty_and_missing_files(tmp_path: Path) -> None:
    path = lines(tmp_path / "twice.jsonl", demonstration(), demonstration())
    with pytest.raises(ValueError, match=r"twice.jsonl:2: id 'a'"):
        list(read_jsonl(path, SFTRecord))
    with pytest.raises(ValueError, match="no records"):
        list(read_jsonl(lines(tmp_path / "empty.jsonl"), SFTRecord))
    with pytest.raises(ValueError, match="no such file"):
        read_jsonl(tmp_path / "absent.jsonl", SFTRecord)


def test_not_json_wrong_encoding_and_long_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    wide = json.dumps(demonstration(), ensure_ascii=False).encode("gb18030")
    for line, reason in (
        (b"{", "not JSON: EOF .* at column 1$"),
        (wide, "not UTF-8 but, as it seems, GBK"),
    ):
        path.write_bytes(line + b"\n")
        with pytest.raises(ValueError, match=f"bad.jsonl:1: {reason}"):
            list(read_jsonl(path, SFTRecord))
    path.write_bytes(b" " * MAX_LINE_BYTES + b"{}")
    with pytest.raises(ValueError, match="the longest allowed"):
        list(read_jsonl(path, SFTRecord))


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", demonstration())
    good = SFTRecord.model_validate(demonstration("new"))

    def broken() -> Any:
        yield good
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(path, broken())
    assert [record.id for record in read_jsonl(path, SFTRecord)] == ["a"]


def test_pair_grades_add_up_and_stop_at_five() -> None:
    # In rank order y > x = w > z with gaps 2 and 4: y over z is 6, held to 5, and derived.
    assert pair_grades([2, 1, 3, 2], [2, 4]) == [
        PairGrade(chosen=0, rejected=2, grade=4, derived=False),
        PairGrade(chosen=1, rejected=0, grade=2, derived=False),
        PairGrade(chosen=1, rejected=2, grade=5, derived=True),
        PairGrade(chosen=1, rejected=3, grade=2, derived=False),
        PairGrade(chosen=3, rejected=2, grade=4, derived=False),
    ]


def test_pair_grades_ungraded_and_padded() -> None:
    assert pair_grades([1, 0, 2], []) == [PairGrade(0, 2, None, False)]
    assert pair_grades([1, 1], []) == []
