"""Rows of others' JSON files: JSONL, arrays, single objects, plain or gzip, as a stream."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TextIO

from rlhf.data.formats.arrays import elements
from rlhf.data.jsonl import MAX_LINE_BYTES, is_gzip

_CHUNK = 1024 * 1024
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
NOT_TEXT = "not UTF-8, or an escape of half a character"


@dataclass(frozen=True)
class Row:
    """One row of a source: its line (in a table: its number), its text, and its value or what is
    wrong."""

    line: int
    text: str
    value: dict[str, object] | None
    problem: str | None = None

    @classmethod
    def of(cls, line: int, value: dict[str, object]) -> Row:
        """A row that is no text: one of a table."""
        text = json.dumps(value, ensure_ascii=False, default=str)
        return cls(line, text, value)

    @classmethod
    def damage(cls, line: int, error: Exception) -> Row:
        """Stands for all that cannot be read from a line on."""
        return cls(line, "", None, f"the file is damaged from here on: {error}")


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, in order. A file that starts with "[", or with an object that goes on in its
    second line, is one JSON value, any other has a row a line. UTF-8, or UTF-16 with its byte order
    mark. A row that is not a JSON object carries its problem."""
    line = 0
    try:
        for line, text in _array_elements(path) if _spans_lines(path) else _lines(path):
            yield _parse(line, text)
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        yield Row.damage(line + 1, error)


def open_text(path: Path, newline: str) -> TextIO:
    """The file as text, plain or gzip. What is not UTF-8 becomes lone surrogates."""
    packed = is_gzip(path)
    with gzip.open(path) if packed else path.open("rb") as stream:
        wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "surrogatepass") if wide else ("utf-8-sig", "surrogateescape")
    if packed:
        return gzip.open(path, "rt", encoding=encoding, errors=errors, newline=newline)
    return path.open(encoding=encoding, errors=errors, newline=newline)


def _parse(line: int, text: str) -> Row:
    if len(text) > MAX_LINE_BYTES:
        return Row(line, text, None, f"longer than {MAX_LINE_BYTES} characters")
    try:
        text.encode()
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Row(line, text, None, NOT_TEXT)
    except json.JSONDecodeError as error:
        return Row(line, text, None, f"not JSON: {error.msg}")
    except (ValueError, RecursionError):
        return Row(line, text, None, "not JSON: a number too long or brackets too deep")
    if not isinstance(value, dict):
        return Row(line, text, None, f"not a JSON object but a {type(value).__name__}")
    return Row(line, text, value)


def _spans_lines(path: Path) -> bool:
    first, second = (text for _, text in islice(chain(_lines(path), repeat((0, ""))), 2))
    # An object that goes on; the next row of JSONL would begin with a brace.
    goes_on = first.startswith("{") and second != "" and not second.startswith("{")
    return first.startswith("[") or goes_on and not _is_json(first)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open_text(path, newline="\n") as stream:
        for line, text in enumerate(map(str.strip, stream), start=1):
            if text:
                yield line, text


def _array_elements(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each element; a file that is one object counts as an array of it."""
    with open_text(path, newline="\n") as stream:
        chunks = iter(lambda: stream.read(_CHUNK), "")
        first = next(chunks)
        if first.lstrip().startswith("["):
            yield from elements(chain([first], chunks))
        else:
            yield from elements(chain(["[", first], chunks, ["]"]))
