"""Conversion of others' files: one source row gives exactly one line, in records or in rejected."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from rlhf.data.fields import UNKNOWN
from rlhf.data.formats.reading import READERS, Origin, Reader
from rlhf.data.formats.rows import Row
from rlhf.data.formats.sources import Sources, sources
from rlhf.data.jsonl import MAX_LINE_BYTES, Record, in_one_line, one_line, to_line, whole_files
from rlhf.data.records import RankingRecord

_OTHER_NAMES = {"messages": "openai", "chatml": "openai", "conversations": "sharegpt"}
"""What others call a format: by the column that it has."""


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did.

    files: read, with the number of rows in each. ignored: files of a folder that hold no rows.
    reasons: rows rejected, by reason, the commonest first. first: "file:line" of the first of each.
    no_family: ranked responses of models whose family nobody wrote down.
    """

    format: str
    records: int
    rejected: int
    reasons: dict[str, int]
    first: dict[str, str]
    files: dict[str, int]
    ignored: tuple[str, ...]
    no_family: int


def convert(format: str, path: str | Path, out_dir: str | Path) -> ConvertReport:
    """Reads a source, and writes records.jsonl and rejected.jsonl.

    A rejected line has the reason, the source file, the line, the number of the row, and its text.

    Args:
        path: a file, a folder, of which every JSON, CSV, TSV, Parquet and Arrow file is read, or
            the name of a dataset on the hub, "user/name" or "user/name:split".

    A record's id names folder, file and row: what helpful/test.jsonl and harmless/test.jsonl become
    may be used together.

    Raises:
        ValueError: unknown format, nothing to read, or an output folder inside the input folder.
    """
    out_dir = Path(out_dir)
    if format not in READERS:
        (nearest,) = get_close_matches(format, READERS, n=1, cutoff=0)
        nearest = _OTHER_NAMES.get(format, nearest)
        raise ValueError(
            f"unknown format {format!r}; did you mean {nearest!r}? "
            f"Known: {', '.join(sorted(READERS))}"
        )
    if Path(path).is_dir() and out_dir.resolve().is_relative_to(Path(path).resolve()):
        raise ValueError(
            f"{out_dir} is inside {path}: its output would be input next time; move it"
        )
    found, ignored = sources(str(path))
    folder = _folder_name(Path(path))
    for out in (out_dir / "records.jsonl", out_dir / "rejected.jsonl"):
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise ValueError(f"{path}: would be overwritten; name another folder with --out")
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    no_family = 0
    with whole_files(out_dir / "records.jsonl", out_dir / "rejected.jsonl") as (good, bad):
        for name, number, row in _rows(found):
            counts[name] += 1
            try:
                record = _read(READERS[format], row, Origin(f"{folder}{name}:{number}", name))
                line = _line(record)
            except ValueError as error:
                reasons[str(error)] += 1
                first.setdefault(str(error), f"{name}:{row.line}")
                place = {"file": name, "line": row.line, "row": number, "content": row.text}
                text = json.dumps({"reason": str(error), **place}, ensure_ascii=False)
                # Text that is not UTF-8 becomes JSON escapes.
                bad.write(one_line(text.encode(errors="backslashreplace")))
            else:
                good.write(line)
                if isinstance(record, RankingRecord):
                    families = [each.provenance.family for each in record.responses]
                    no_family += families.count(UNKNOWN)
        if not counts:
            raise ValueError(f"{path}: no rows to convert")
    dropped = reasons.total()
    return ConvertReport(
        format=format,
        records=counts.total() - dropped,
        rejected=dropped,
        reasons=dict(reasons.most_common()),
        first=first,
        files={name: counts[name] for name in found},
        ignored=ignored,
        no_family=no_family,
    )


def _folder_name(path: Path) -> str:
    """ "helpful/" for that folder, or for a file in it; "" for what is not on this machine."""
    whole = Path(os.path.abspath(path))
    folder = whole if path.is_dir() else whole.parent
    return f"{folder.name}/" if path.exists() and folder.name else ""


def _rows(found: Sources) -> Iterator[tuple[str, int, Row]]:
    for name, read in found.items():
        for number, row in enumerate(read(), start=1):
            yield name, number, row


def _read(read: Reader, row: Row, origin: Origin) -> Record:
    """The row's record; raises ValueError with the reason when there is none."""
    if row.value is None:
        raise ValueError(row.problem)
    try:
        return read(row.value, origin)
    except ValidationError as error:
        raise ValueError(in_one_line(error)) from None


def _line(record: Record) -> bytes:
    line = to_line(record)
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes, which no record may be")
    return line
