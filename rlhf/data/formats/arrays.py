"""The elements of a JSON array as a stream, where one that is no JSON hides none behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

from rlhf.data.jsonl import MAX_LINE_BYTES

_MARK = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|(?P<unfinished>\\?\Z))|[\[\]{},]', re.DOTALL)
_OPENING = {"]": "[", "}": "{"}
_HEAD = re.compile(r'\s*(\{\s*"[^"\\]*"\s*:)')
_DECODER = json.JSONDecoder()


def elements(chunks: Iterator[str]) -> Iterator[tuple[int, str]]:
    """(line, text) of each element of an array, which is split at the commas between brackets.

    Raises:
        EOFError: at the end, if it is not the array's.
    """
    buffer, line, head = "", 1, ""
    begin = scanned = 0
    opened: list[str] = []
    for chunk in chunks:
        buffer += chunk
        while (mark := _MARK.search(buffer, scanned)) and mark["unfinished"] is None:
            scanned, character = mark.end(), mark.group()[0]
            # Outside all elements, or between two: what stands before the mark is whole.
            ends = opened == ["["] and character in ",]" or not opened and character in "[{"
            if ends:
                text = buffer[begin : mark.start()]
                head = head or _head(text)
                yield from _apart(line, text, head)
                line += buffer.count("\n", begin, scanned)
                begin = scanned
            if character in "[{":
                opened.append(character)
            elif opened and opened[-1] == _OPENING.get(character):
                opened.pop()
        scanned = mark.start() if mark else len(buffer)
        buffer, scanned, begin = buffer[begin:], scanned - begin, 0
        if opened and len(buffer) > MAX_LINE_BYTES and (starts := _starts(buffer, head)):
            # No element is as long: one of them has no end that can be seen.
            yield from _apart(line, buffer[: starts[-1]], head)
            line += buffer.count("\n", 0, starts[-1])
            buffer, scanned, opened = buffer[starts[-1] :], 0, ["["]
    rest = buffer.rstrip()
    if opened and rest.endswith("]") and _starts(rest, head):  # which ends the array
        yield from _apart(line, rest[:-1], head)
        return
    yield from _apart(line, buffer, head)
    if opened:
        raise EOFError("the array has no end")


def _head(text: str) -> str:
    """How an element begins, up to its first key."""
    found = _HEAD.match(text)
    return found[1] if found else ""


def _apart(line: int, text: str, head: str) -> Iterator[tuple[int, str]]:
    """What should be one element, or those that lie in it because one lacks a bracket or a quote.

    head: how the first of the array begins.
    """
    starts = _starts(text, head)
    if not starts or _end(text, _lead(text)) == len(text.rstrip()):
        yield from _element(line, text)
        return
    for begin, end in pairwise([0, *starts, len(text)]):
        piece = text[begin:end]
        yield from _element(line, piece.rstrip().removesuffix(",").removeprefix(","))
        line += piece.count("\n")


def _starts(text: str, head: str) -> list[int]:
    """Where further elements begin: each line that begins with a brace as far in as the text itself
    does, or else each place behind a comma or brace where all begins as the first element did."""
    start = _lead(text)
    indent = text[:start].rpartition("\n")[2] if "\n" in text[:start] else ""
    lines = re.compile(rf"\n{re.escape(indent)}\{{")
    found = [found.start() for found in lines.finditer(text, start)]
    return found or (_heads(text, head) if head else [])


def _heads(text: str, head: str) -> list[int]:
    if text.find(head, _lead(text) + 1) < 0:
        return []
    place = re.compile(rf"[,}}]\s*({re.escape(head)})")
    starts = [whole] if (whole := _end(text, _lead(text))) else []
    position = whole
    # What is JSON is whole: nothing begins in it, and what is behind it is apart.
    while found := place.search(text, max(0, position - 1)):
        starts.append(found.start(1))
        position = max(found.end(), whole := _end(text, starts[-1]))
        starts += [whole] if whole else []
    return starts


def _end(text: str, start: int) -> int:
    """Where the JSON that begins here ends; 0 where there is none."""
    try:
        return int(_DECODER.raw_decode(text, start)[1])
    except (ValueError, RecursionError):
        return 0


def _lead(text: str) -> int:
    """White space that a text begins with."""
    return len(text) - len(text.lstrip())


def _element(line: int, text: str) -> Iterator[tuple[int, str]]:
    if whole := text.strip():
        yield line + text.count("\n", 0, _lead(text)), whole
