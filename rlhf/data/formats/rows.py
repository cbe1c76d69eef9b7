"""Rows of others' JSON files: JSONL, arrays, single objects, plain or .gz, as a stream."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TextIO

from rlhf.data.jsonl import MAX_LINE_BYTES, read_lines

_CHUNK = 1024 * 1024
_MARK = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|(?P<unfinished>\\?\Z))|[\[\]{},]', re.DOTALL)

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Row:
    """One row of a source file: the line it starts on, its text, and its value or what is wrong."""

    line: int
    text: str
    value: dict[str, object] | None
    problem: str | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, in order. A file that starts with "[" or with "{" alone on a line is one JSON
    value, any other has a row a line. A row that is not a JSON object carries its problem."""
    line = 0
    try:
        for line, text in _array_elements(path) if _spans_lines(path) else _lines(path):
            yield _parse(line, text)
    except (EOFError, OSError, zlib.error) as error:
        yield Row(line + 1, "", None, f"the file is damaged from here on: {error}")


def _parse(line: int, text: str) -> Row:
    if len(text) > MAX_LINE_BYTES:
        return Row(line, text, None, f"longer than {MAX_LINE_BYTES} characters")
    try:
        text.encode()
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 were read as lone surrogates
        return Row(line, text, None, "not UTF-8, or an escape of half a character")
    except json.JSONDecodeError as error:
        return Row(line, text, None, f"not JSON: {error.msg}")
    except (ValueError, RecursionError):
        return Row(line, text, None, "not JSON: a number too long or brackets too deep")
    if not isinstance(value, dict):
        return Row(line, text, None, f"not a JSON object but a {type(value).__name__}")
    return Row(line, text, value)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="\n")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def _spans_lines(path: Path) -> bool:
    for _, line in read_lines(path):
        return line.lstrip().startswith(b"[") or line.strip() == b"{"
    return False


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for line, raw in read_lines(path):
        yield line, raw.decode(errors="surrogateescape").strip()


def _array_elements(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each element, split at the commas between brackets, so that an element that
    is not JSON does not hide those after it."""
    with _open(path) as stream:
        chunks = iter(lambda: stream.read(_CHUNK), "")
        first = next(chunks)
        whole = first if first.lstrip().startswith("[") else "[" + first
        yield from _split(chain([whole], chunks))


def _split(chunks: Iterator[str]) -> Iterator[tuple[int, str]]:
    buffer, line = "", 1
    begin = scanned = depth = 0
    for chunk in chunks:
        buffer += chunk
        while (mark := _MARK.search(buffer, scanned)) and mark["unfinished"] is None:
            scanned, character = mark.end(), mark.group()[0]
            if depth == 1 and character in ",]":
                yield from _element(line, buffer[begin : mark.start()])
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(character, 0)
            if (depth == 1 and character in ",[") or depth == 0:
                line += buffer.count("\n", begin, scanned)
                begin = scanned
        scanned = mark.start() if mark else len(buffer)
        buffer, scanned, begin = buffer[begin:], scanned - begin, 0
    yield from _element(line, buffer)


def _element(line: int, text: str) -> Iterator[tuple[int, str]]:
    rest = text.lstrip()
    if rest:
        yield line + text.count("\n", 0, len(text) - len(rest)), rest.rstrip()
