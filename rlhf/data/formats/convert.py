"""Conversion of others' files: one source row gives exactly one line, in records or in rejected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from rlhf.data.formats.reading import READERS, Origin, Reader
from rlhf.data.formats.rows import Row, read_rows
from rlhf.data.jsonl import in_one_line
from rlhf.data.records import RankingRecord, SFTRecord

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did.

    files: read, with the number of rows in each. ignored: files of a folder that are no JSON.
    reasons: rows rejected, by reason.
    """

    format: str
    records: int
    rejected: int
    reasons: dict[str, int]
    files: dict[str, int]
    ignored: tuple[str, ...]


def convert(format: str, path: str | Path, out_dir: str | Path) -> ConvertReport:
    """Reads a file, or every JSON file of a folder, and writes records.jsonl and rejected.jsonl.

    A rejected line has the reason, the source file, the line, the number of the row, and its text.

    Raises:
        ValueError: unknown format, nothing to read, or an output folder inside the input folder.
    """
    path, out_dir = Path(path), Path(out_dir)
    if format not in READERS:
        (nearest,) = get_close_matches(format, READERS, n=1, cutoff=0)
        raise ValueError(
            f"unknown format {format!r}; did you mean {nearest!r}? "
            f"Known: {', '.join(sorted(READERS))}"
        )
    if path.is_dir() and out_dir.resolve().is_relative_to(path.resolve()):
        raise ValueError(
            f"{out_dir} is inside {path}: its output would be input next time; move it"
        )
    sources, ignored = _sources(path)
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    out_dir.mkdir(parents=True, exist_ok=True)
    targets = [out_dir / "records.jsonl", out_dir / "rejected.jsonl"]
    unfinished = [target.with_name(target.name + ".tmp") for target in targets]
    with ExitStack() as stack:
        records, rejected = (
            # Text that is not UTF-8 reaches rejected.jsonl, where it becomes JSON escapes.
            stack.enter_context(file.open("w", encoding="utf-8", errors="backslashreplace"))
            for file in unfinished
        )
        for name, number, row in _rows(sources):
            counts[name] += 1
            try:
                record = _read(READERS[format], row, Origin(f"{name}:{number}", name))
            except ValueError as error:
                reasons[str(error)] += 1
                place = {"file": name, "line": row.line, "row": number, "content": row.text}
                line = json.dumps({"reason": str(error), **place}, ensure_ascii=False)
                rejected.write(line + "\n")
            else:
                records.write(record.model_dump_json(exclude_none=True) + "\n")
    if not counts:
        for file in unfinished:
            file.unlink()
        raise ValueError(f"{path}: no rows to convert")
    for file, target in zip(unfinished, targets, strict=True):
        file.replace(target)
    dropped = reasons.total()
    files = {name: counts[name] for name in sources}
    return ConvertReport(
        format, counts.total() - dropped, dropped, dict(reasons.most_common()), files, ignored
    )


def _sources(path: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    if path.is_file():
        return {path.name: path}, ()
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    names = {file.relative_to(path).as_posix(): file for file in files}
    sources = {name: file for name, file in names.items() if name.endswith(_SUFFIXES)}
    if not sources:
        raise ValueError(f"{path}: no file in it ends with {', '.join(_SUFFIXES)}")
    return sources, tuple(name for name in names if name not in sources)


def _rows(sources: dict[str, Path]) -> Iterator[tuple[str, int, Row]]:
    for name, file in sources.items():
        for number, row in enumerate(read_rows(file), start=1):
            yield name, number, row


def _read(read: Reader, row: Row, origin: Origin) -> SFTRecord | RankingRecord:
    """The row's record; raises ValueError with the reason when there is none."""
    if row.value is None:
        raise ValueError(row.problem)
    try:
        return read(row.value, origin)
    except ValidationError as error:
        raise ValueError(in_one_line(error)) from None
