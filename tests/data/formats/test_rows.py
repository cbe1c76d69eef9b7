from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rlhf.data.charset import GBK
from rlhf.data.formats import rows as rows_module
from rlhf.data.formats.rows import read_rows
from rlhf.data.jsonl import MAX_LINE_BYTES


def rows(path: Path, content: str | bytes) -> list[tuple[int, object]]:
    """(line, value or problem) of a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(row.line, row.problem or row.value) for row in read_rows(path)]


def test_jsonl_goes_on_after_bad_lines(tmp_path: Path) -> None:
    content = '\ufeff{"a": 1}\r\n\n{"a": \n[1]\n"text"\n{"a": 2}'
    assert rows(tmp_path / "a.jsonl", content) == [
        (1, {"a": 1}),
        (3, "not JSON: Expecting value"),
        (4, "not a JSON object but a list"),
        (5, "not a JSON object but a str"),
        (6, {"a": 2}),
    ]


UNICODE = "not UTF-8, or an escape of half a character"
ARRAY = """
[
  {"a": "x, ] } \\" [ {", "b": [1, {"c": 2}]},
  {"a":, "b": 1},
  {
    "a": "\\\\"
  }
  , 7,
  {"a": 3}
]
"""
ELEMENTS = [
    (3, {"a": 'x, ] } " [ {', "b": [1, {"c": 2}]}),
    (4, "not JSON: Expecting value"),
    (5, {"a": "\\"}),
    (8, "not a JSON object but a int"),
    (9, {"a": 3}),
]


def test_array_elements_keep_their_lines_and_survive_a_bad_one(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.json", ARRAY) == ELEMENTS


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_array_read_in_small_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(rows_module, "_CHUNK", chunk)
    assert rows(tmp_path / "a.json", ARRAY.strip("\n")) == [(n - 1, each) for n, each in ELEMENTS]


def test_array_on_one_line_and_empty_array(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.json", '[{"a": 1}, {"a": 2}]') == [(1, {"a": 1}), (1, {"a": 2})]
    assert rows(tmp_path / "b.json", " [ ]\n") == []
    assert rows(tmp_path / "c.json", "") == []


@pytest.mark.parametrize("bad", ['{"a": 2', '{"a": "x" y"}', '{"a": [2}', '{"a": "say "hi"}'])
@pytest.mark.parametrize("indent", ["", "  "])
def test_an_element_that_ends_nowhere_hides_none_behind_it(
    tmp_path: Path, bad: str, indent: str
) -> None:
    nested = f'{indent}{{"a": [\n{indent}  {{"b": 1}}\n{indent}]}}'
    lines = [
        f"{indent}{bad}",
        f'{indent}{{"a": 3}}',
        nested,
        f"{indent}{bad}",
        f'{indent}{{"a": 5}}',
    ]
    found = rows(tmp_path / "a.json", "[\n" + ",\n".join(lines) + "\n]")
    assert [line for line, _ in found] == [2, 3, 4, 7, 8]
    assert [value for _, value in found[1:3]] == [{"a": 3}, {"a": [{"b": 1}]}]
    assert found[4][1] == {"a": 5}
    assert all("not JSON" in str(found[place][1]) for place in (0, 3))


@pytest.mark.parametrize("bad", ['{"a": [{"b": 1}, {"b": 2}', '{"a": "x, "b": [{"c": 1}]}'])
def test_of_an_array_on_one_line_what_follows_a_bad_row_is_told_as_rejected(
    tmp_path: Path, bad: str
) -> None:
    (tmp_path / "a.json").write_text(f'[{{"a": 1}}, {bad}, {{"a": 2}}, {{"a": 3}}]')
    first, second, *others = read_rows(tmp_path / "a.json")
    assert first.value == {"a": 1}
    assert second.line == 1 and "not JSON" in str(second.problem)
    assert second.text.startswith(bad[:10]) and '{"a": 3}' in second.text
    assert not [row for row in others if row.value is not None]


def test_of_an_array_on_one_line_a_bad_row_with_all_its_brackets_is_rejected_alone(
    tmp_path: Path,
) -> None:
    good = [{"a": 1, "b": [{"a": 2}]}, {"a": 3, "b": []}]
    long = {"a": 4, "b": [{"a": n, "c": "x" * 1000} for n in range(5000)]}
    for bad in (json.dumps(long), '{"a": 4, "b": [{"a": 5}, {"a": 6}], "c": }'):
        first, second, third = rows(
            tmp_path / "a.json", f"[{json.dumps(good[0])}, {bad}, {json.dumps(good[1])}]"
        )
        assert [first[1], third[1]] == good
        assert "longer than" in str(second[1]) or "not JSON" in str(second[1])


def test_many_elements_that_end_nowhere_hide_none_either(tmp_path: Path) -> None:
    lines = ['{"a": 1', '{"a": 2}'] * 20_000
    found = rows(tmp_path / "a.json", "[\n" + ",\n".join(lines) + "\n]")
    assert len(found) == 40_000 and found[-1] == (40_001, {"a": 2})


def test_truncated_array_keeps_what_was_whole(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.json", '[{"a": 1},\n{"a": "tr')
    assert found[0] == (1, {"a": 1})
    assert found[1][0] == 2 and "not JSON" in str(found[1][1])
    for cut in ('[{"a": 1}', '[{"a": 1},\n'):
        whole, end = rows(tmp_path / "a.json", cut)
        assert whole == (1, {"a": 1}) and "the array has no end" in str(end[1])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"a": 1]}, {"a": 2}]', ['{"a": 1]}', '{"a": 2}']),
        ('[{"a": 1}}, {"a": 2}]', ['{"a": 1}}', '{"a": 2}']),
        ('[{"a": [1}, {"a": 2}]', ['{"a": [1}, {"a": 2}]']),
        ('[{"a": 1}] junk [{"a": 2}] end', ['{"a": 1}', "junk", '{"a": 2}', "end"]),
    ],
)
def test_brackets_that_do_not_match_lose_no_text(
    tmp_path: Path, content: str, expected: list[str]
) -> None:
    (tmp_path / "a.json").write_text(content)
    assert [row.text for row in read_rows(tmp_path / "a.json") if row.text] == expected


def test_one_object_over_several_lines(tmp_path: Path) -> None:
    value = {"chat": {"turn_1": "a, b"}, "n": [1, 2]}
    whole = json.dumps(value, indent=2)
    for text in (whole, whole.replace("{\n", "{", 1), whole.replace(",\n", ",\n\n")):
        assert rows(tmp_path / "a.json", text) == [(1, value)]
    bad = [(1, "not JSON: Expecting value"), (2, {"a": 1})]
    assert rows(tmp_path / "a.jsonl", '{"a":\n{"a": 1}') == bad
    assert rows(tmp_path / "a.jsonl", '{"a": 1}\ntext')[0] == (1, {"a": 1})


def test_wrong_encoding_rejects_only_its_rows(tmp_path: Path) -> None:
    good, bad = '{"a": "好"}', '{"a": "好"}'.encode("gb18030")
    expected = [(1, {"a": "好"}), (2, GBK), (3, {"a": "好"})]
    assert rows(tmp_path / "a.jsonl", b"\n".join([good.encode(), bad, good.encode()])) == expected
    content = b"[" + b",\n".join([good.encode(), bad, good.encode()]) + b"]"
    assert rows(tmp_path / "a.json", content) == expected


def test_utf_16_is_read_and_its_damage_is_told(tmp_path: Path) -> None:
    lines = '{"a": "好"}\r\n\r\n{"a": \n{"a": 1}'
    expected = [(1, {"a": "好"}), (3, "not JSON: Expecting value"), (4, {"a": 1})]
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        content = ("\ufeff" if encoding != "utf-16" else "") + lines
        assert rows(tmp_path / "a.jsonl", content.encode(encoding)) == expected
    packed = gzip.compress('[{"a": 1},\n{"a": "好"},\n]'.encode("utf-16"))
    assert rows(tmp_path / "a.json.gz", packed) == [(1, {"a": 1}), (2, {"a": "好"})]
    last = rows(tmp_path / "b.jsonl", '{"a": 1}\n{'.encode("utf-16") + b"\x00")[-1]
    assert "damaged from here on" in str(last[1])


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    content = '{"a": "\\ud83d\\ude00"}\n{"a": {"b": "\\uD83d"}}\n{"\\udc00": 1}'
    found = rows(tmp_path / "a.jsonl", content)
    assert found == [(1, {"a": "\U0001f600"}), (2, UNICODE), (3, UNICODE)]


def test_gzip_and_damaged_gzip(tmp_path: Path) -> None:
    lines = b"".join(b'{"a": %d}\n' % number for number in range(3))
    packed = gzip.compress(lines)
    assert rows(tmp_path / "a.jsonl.gz", packed) == [(n + 1, {"a": n}) for n in range(3)]
    array = gzip.compress(b'[{"a": 1}]')
    assert rows(tmp_path / "a.json.gz", array) == [(1, {"a": 1})]
    ((_, problem),) = rows(tmp_path / "b.jsonl.gz", packed[:-12])[-1:]
    assert "damaged from here on" in str(problem)


def test_whether_a_file_is_packed_its_beginning_tells(tmp_path: Path) -> None:
    line = b'{"a": 1}\n'
    assert rows(tmp_path / "a.jsonl", gzip.compress(line)) == [(1, {"a": 1})]
    assert rows(tmp_path / "a.jsonl.gz", line) == [(1, {"a": 1})]


def test_long_deep_and_huge_rows(tmp_path: Path) -> None:
    long = '{"a": "' + "x" * MAX_LINE_BYTES + '"}'
    deep = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    digits = '{"a": ' + "9" * 10_000 + "}"
    problems = [
        str(problem) for _, problem in rows(tmp_path / "a.jsonl", "\n".join((long, deep, digits)))
    ]
    assert "longer than" in problems[0]
    assert problems[1] == problems[2] == "not JSON: a number too long or brackets too deep"
