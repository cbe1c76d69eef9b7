from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlhf.data.jsonl import CONTENT_BYTES, Record, Rejection, read_all, whole_files


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    paths = tmp_path / "new" / "a", tmp_path / "b"
    paths[1].write_bytes(b"old")
    with pytest.raises(RuntimeError), whole_files(*paths) as (first, second):
        first.write(b"1")
        second.write(b"2")
        raise RuntimeError
    assert not paths[0].exists() and paths[1].read_bytes() == b"old"
    with whole_files(*paths) as (first, second):
        first.write(b"1")
        second.write(b"2")
    assert [path.read_bytes() for path in paths] == [b"1", b"2"]
    assert [path.name for path in paths[0].parent.iterdir()] == ["a"]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        with pytest.raises(ValueError, match="cannot be a folder"), whole_files(place):
            pass


def test_rejection_shows_a_short_text_whatever_the_bytes() -> None:
    raw = "众".encode("gb18030") + b"x" * 10_000
    rejection = Rejection.of(Path("a.jsonl"), 7, ValueError("no JSON"), raw)
    assert str(rejection) == "a.jsonl:7: no JSON"
    row = json.loads(rejection.to_json())
    assert row["content"].startswith("\\xd6\\xdax") and row["content"].count("x") <= CONTENT_BYTES
    assert (row["file"], row["line"], row["reason"]) == ("a.jsonl", 7, "no JSON")


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    cases = ((tmp_path, "a folder"), (pipe, "no regular file"), (Path("."), "no name of a file"))
    for place, said in cases:
        with pytest.raises(ValueError, match=said), whole_files(tmp_path / "new", place):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"] and pipe.is_fifo()


def test_files_that_count_as_one_share_no_id_and_none_is_listed_twice(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    for path, name in ((first, "1"), (second, "2"), (third, "1")):
        path.write_text(json.dumps({"id": name}) + "\n")
    assert [record.id for record in read_all([first, second], Record)] == ["1", "2"]
    with pytest.raises(ValueError, match=r"c:1: id '1' is in \S*a too; ids are unique"):
        list(read_all([first, second, third], Record))
    for again in (first, tmp_path / ".." / tmp_path.name / "a"):
        with pytest.raises(ValueError, match=r"a: this file is listed twice; name it once$"):
            list(read_all([first, second, again], Record))
