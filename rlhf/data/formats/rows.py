"""Rows of others' JSON files: JSONL, arrays, single objects, plain or gzip, as a stream."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from typing import TextIO

from rlhf.data.charset import GBK, not_utf8
from rlhf.data.jsonl import MAX_LINE_BYTES, is_gzip

_CHUNK = 1024 * 1024
_MARK = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|(?P<unfinished>\\?\Z))|[\[\]{},]', re.DOTALL)
_OPENING = {"]": "[", "}": "{"}
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
    def unreadable(cls, line: int, text: str) -> Row:
        """A row whose text cannot be UTF-8. text: as open_text gives it."""
        try:
            raw = text.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            return cls(line, text, None, NOT_TEXT)
        return cls(line, text, None, GBK if not_utf8(raw) == GBK else NOT_TEXT)

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
        return Row.unreadable(line, text)
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
    """(line, text) of each element, split at the commas between brackets; a file that is one
    object counts as an array of it. One that is not JSON hides none that begin lines after it."""
    with open_text(path, newline="\n") as stream:
        chunks = iter(lambda: stream.read(_CHUNK), "")
        first = next(chunks)
        if first.lstrip().startswith("["):
            yield from _split(chain([first], chunks))
        else:
            yield from _split(chain(["[", first], chunks, ["]"]))


def _split(chunks: Iterator[str]) -> Iterator[tuple[int, str]]:
    buffer, line = "", 1
    begin = scanned = 0
    opened: list[str] = []
    for chunk in chunks:
        buffer += chunk
        while (mark := _MARK.search(buffer, scanned)) and mark["unfinished"] is None:
            scanned, character = mark.end(), mark.group()[0]
            # Outside all elements, or between two: what stands before the mark is whole.
            ends = opened == ["["] and character in ",]" or not opened and character in "[{"
            if ends:
                yield from _elements(line, buffer[begin : mark.start()])
                line += buffer.count("\n", begin, scanned)
                begin = scanned
            if character in "[{":
                opened.append(character)
            elif opened and opened[-1] == _OPENING.get(character):
                opened.pop()
        scanned = mark.start() if mark else len(buffer)
        buffer, scanned, begin = buffer[begin:], scanned - begin, 0
    rest = buffer.rstrip()
    if opened and _next_lines(rest) and rest.endswith("]"):  # which ends the array
        yield from _elements(line, rest[:-1])
        return
    yield from _elements(line, buffer)
    if opened:
        raise EOFError("the array has no end")


def _elements(line: int, text: str) -> Iterator[tuple[int, str]]:
    """What should be one element. Where one lacks a bracket or a quote, so that those behind it
    seem to belong to it, each line that begins as it does itself begins another."""
    starts = _next_lines(text)
    if not starts or _is_json(text):
        yield from _element(line, text)
        return
    for begin, end in pairwise([0, *starts, len(text)]):
        piece = text[begin:end]
        yield from _element(line, piece.rstrip().removesuffix(","))
        line += piece.count("\n")


def _next_lines(text: str) -> list[int]:
    """Where, behind the first line, lines begin with a brace as far in as the text itself does."""
    start = len(text) - len(text.lstrip())
    indent = text[:start].rpartition("\n")[2] if "\n" in text[:start] else ""
    lines = re.compile(rf"\n{re.escape(indent)}\{{")
    return [found.start() for found in lines.finditer(text, start)]


def _element(line: int, text: str) -> Iterator[tuple[int, str]]:
    rest = text.lstrip()
    if rest:
        yield line + text.count("\n", 0, len(text) - len(rest)), rest.rstrip()
