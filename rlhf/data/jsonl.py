"""JSONL of typed records: read as a stream with errors that name file and line, written whole."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from rlhf.data.charset import not_utf8
from rlhf.runtime.files import make_folder

MAX_LINE_BYTES = 4 * 1024 * 1024  # a longer line is damage or an attack, not a conversation
CONTENT_BYTES = 1000  # of a rejected line that are shown

# What else than "\n" splits a text into lines for many readers. JSON leaves them as they are.
_BREAKS = {mark.encode(): f"\\u{ord(mark):04x}".encode() for mark in "\u0085\u2028\u2029"}

Text = Annotated[str, StringConstraints(pattern=r"\S")]


class Part(BaseModel):
    """Base of records and of what they are made of: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(Part):
    """One line of a JSONL file. Ids are unique within a file."""

    id: Text


M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Record)


class Rejection(NamedTuple):
    """A line that did not fit: where, why, and the beginning of what it says."""

    file: str
    line: int
    reason: str
    content: str

    @classmethod
    def of(cls, file: Path, line: int, reason: ValueError, raw: bytes) -> Rejection:
        """Bytes that are not UTF-8 become escapes."""
        content = raw[:CONTENT_BYTES].decode(errors="backslashreplace").strip()
        return cls(str(file), line, str(reason), content)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"

    def to_json(self) -> bytes:
        """A line of rejected.jsonl."""
        return one_line(json.dumps(self._asdict(), ensure_ascii=False).encode())


class DamagedFile(ValueError):
    """A packed file that cannot be unpacked from a line on."""

    def __init__(self, path: Path, line: int, error: Exception) -> None:
        self.line, self.reason = line, f"the file is damaged from here on: {error}"
        super().__init__(f"{path}:{line}: {self.reason}")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, raw line) of a text file, plain or gzip; blank lines are skipped.

    Raises:
        ValueError: the file does not exist, or is damaged (DamagedFile).
    """
    check_file(path)
    number = 0
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, line
    except (EOFError, OSError, zlib.error) as error:
        raise DamagedFile(path, number + 1, error) from None


def check_file(path: Path) -> None:
    """Raises ValueError where there is no file of that name."""
    if not path.is_file():
        kind = "a folder; name a file in it" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {kind}")


def is_gzip(path: Path) -> bool:
    """Whether a file is packed, whatever its name."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def parse(line: bytes | str, model: type[M]) -> M:
    """One record, or another model, from its JSON text.

    Raises:
        ValueError: naming the field and what is wrong with it, in one line.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes; {MAX_LINE_BYTES} is the longest allowed")
    try:
        return model.model_validate_json(line.rstrip())
    except ValidationError as error:
        if isinstance(line, bytes) and not _is_utf8(line):
            raise ValueError(not_utf8(line)) from None
        # The line within this text is always the first, and would be taken for the file's.
        raise ValueError(in_one_line(error).replace(" at line 1 column", " at column")) from None


def in_one_line(error: ValidationError) -> str:
    """The first thing that was wrong: field and reason."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "string_pattern_mismatch":
            reason = "the text is empty"
        case "extra_forbidden":
            reason = "there is no such field"
        case "too_short" | "too_long":
            limits = first["ctx"]
            bound = limits.get("min_length", limits.get("max_length"))
            side = "at least" if "min_length" in limits else "at most"
            reason = f"has {limits['actual_length']} items where {side} {bound} must be"
        case "model_type":
            reason = "Input should be an object"
        case "json_invalid":
            reason = f"not JSON: {first['ctx']['error']}"
        case _:
            reason = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    return f"{field}: {reason}" if field else reason


def read_jsonl(path: str | Path, model: type[R]) -> Iterator[R]:
    """Records of a JSONL file (or .jsonl.gz), streamed.

    Raises:
        ValueError: no such file, no record in it, a bad line or a repeated id; names file and line.
    """
    path = Path(path)
    check_file(path)
    return _stream(path, model, {})


def read_all(paths: Sequence[Path], model: type[R]) -> Iterator[R]:
    """Records of files that count as one, streamed: no id is in two of them.

    Raises:
        ValueError: as read_jsonl does, for an id that another file has, and for a file named twice.
    """
    seen: dict[str, Path] = {}
    for place, path in enumerate(paths):
        if path.resolve() in map(Path.resolve, paths[:place]):
            raise ValueError(f"{path}: this file is listed twice; name it once")
        yield from _stream(path, model, seen)


def to_line(record: Record) -> bytes:
    """A record as a line of JSONL."""
    return one_line(record.model_dump_json(exclude_none=True).encode())


def one_line(text: bytes) -> bytes:
    """JSON as one line for whoever reads it: Unicode's own line breaks become escapes."""
    for mark, escape in _BREAKS.items():
        text = text.replace(mark, escape)
    return text + b"\n"


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Writes records as JSONL, complete or not at all, and returns how many."""
    count = 0
    with whole_files(Path(path)) as (stream,):
        for record in records:
            stream.write(to_line(record))
            count += 1
    return count


@contextmanager
def whole_files(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Opens files that appear under their names when all is written, or not at all.

    Raises:
        ValueError: there can be no file of that name.
    """
    for path in paths:
        if not path.name:
            raise ValueError(f"{path}: no name of a file; name one")
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise ValueError(f"{path}: {kind}, which cannot be replaced; name a file")
    drafts = [path.with_name(path.name + ".tmp") for path in paths]
    for draft in drafts:
        make_folder(draft.parent)
    try:
        with ExitStack() as stack:
            streams: list[BinaryIO] = []
            for draft in drafts:
                streams.append(stack.enter_context(draft.open("wb")))
            yield streams
            for stream in streams:
                stream.flush()
                os.fsync(stream.fileno())
    except BaseException:
        for draft in drafts:
            draft.unlink(missing_ok=True)
        raise
    for draft, path in zip(drafts, paths, strict=True):
        draft.replace(path)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _stream(path: Path, model: type[R], seen: dict[str, Path]) -> Iterator[R]:
    """seen: the ids so far, and the file that each is in."""
    empty = True
    for number, line in read_lines(path):
        try:
            record = parse(line, model)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        if record.id in seen:
            there = seen[record.id]
            where = "was on an earlier line" if there == path else f"is in {there} too"
            raise ValueError(f"{path}:{number}: id {record.id!r} {where}; ids are unique")
        seen[record.id], empty = path, False
        yield record
    if empty:
        raise ValueError(f"{path}: no records in this file")
