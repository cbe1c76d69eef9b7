"""Reading whole files of records: every bad line is told, the rest is still read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rlhf.data.jsonl import DamagedFile, R, Record, Rejection, parse, read_lines
from rlhf.data.records import PromptRecord, RankingRecord, SFTRecord, TextRecord
from rlhf.data.taxonomy import Taxonomy

KINDS: dict[str, type[Record]] = {
    "sft": SFTRecord,
    "prompt": PromptRecord,
    "ranking": RankingRecord,
    "text": TextRecord,
}
_FIRST = 20  # lines that tell what a file holds


class Counts(NamedTuple):
    """Lines of a file that are good records, and those that are not."""

    good: int
    bad: int


def validate(
    path: Path, kind: str, taxonomy: Taxonomy, tell: Callable[[Rejection], object]
) -> Counts:
    """Reads every line of a JSONL file; memory does not grow with their number.

    Args:
        kind: sft, prompt, ranking or text.
        taxonomy: has the categories that records may be in.
        tell: called with every bad line.

    Raises:
        ValueError: no such file or kind, or nothing in the file.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of record {kind!r}: use {', '.join(KINDS)}")
    good = bad = 0
    for found in _checked(path, KINDS[kind], taxonomy):
        if isinstance(found, Rejection):
            bad += 1
            tell(found)
        else:
            good += 1
    if not good and not bad:
        raise ValueError(f"{path}: no records in this file")
    return Counts(good, bad)


def good_records(path: Path, model: type[R], tell: Callable[[Rejection], object]) -> Iterator[R]:
    """The records of a file, as a stream, its bad lines left out and told.

    Raises:
        ValueError: no such file, or not one good record in it.
    """
    good = bad = 0
    for found in _checked(path, model):
        if isinstance(found, Rejection):
            bad += 1
            tell(found)
        else:
            good += 1
            yield found
    if not good and not bad:
        raise ValueError(f"{path}: no records in this file")
    if not good:
        raise none_of(path, next(kind for kind, its in KINDS.items() if its is model))


def none_of(path: Path, kind: str) -> ValueError:
    """What to raise where no line of a file is a record of that kind: it says what its first lines
    are."""
    others = [name for name, model in KINDS.items() if name != kind and _begins_with(path, model)]
    mend = f"its lines are {others[0]} records" if others else "mend what is named above"
    return ValueError(f"{path}: no {kind} record in it; {mend}")


def _begins_with(path: Path, model: type[Record]) -> bool:
    """Whether the first lines of a file are all such records."""
    return all(not isinstance(found, Rejection) for found in islice(_checked(path, model), _FIRST))


def _checked(
    path: Path, model: type[R], taxonomy: Taxonomy | None = None
) -> Iterator[R | Rejection]:
    """For each line its record, or what is wrong with it."""
    with closing(_Ids()) as ids:
        try:
            for number, line in read_lines(path):
                try:
                    record = parse(line, model)
                    if taxonomy and (category := _category(record)):
                        taxonomy.find(category)
                    ids.add(record.id, number)
                except ValueError as error:
                    yield Rejection.of(path, number, error, line)
                else:
                    yield record
        except DamagedFile as damage:
            yield Rejection(str(path), damage.line, damage.reason, "")


def _category(record: Record) -> tuple[str, ...]:
    match record:
        case RankingRecord():
            return record.prompt.category
        case SFTRecord() | PromptRecord():
            return record.category
        case _:
            return ()


class _Ids:
    """Ids seen so far and their lines, on disk (SQLite's temporary database)."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA cache_size = -65536")  # KiB
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, id: str, line: int) -> None:
        """Raises ValueError when an earlier line has the id."""
        try:
            self._database.execute("INSERT INTO ids VALUES (?, ?)", (id, line))
        except sqlite3.IntegrityError:
            query = "SELECT line FROM ids WHERE id = ?"
            (earlier,) = self._database.execute(query, (id,)).fetchone()
            raise ValueError(f"id {id!r} is on line {earlier} already; ids are unique") from None

    def close(self) -> None:
        self._database.close()
