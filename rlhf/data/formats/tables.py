"""Rows of tables: Parquet, Arrow, and CSV or TSV, plain or gzip, as a stream."""

from __future__ import annotations

import csv
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet

from rlhf.data.formats.rows import NOT_TEXT, Row, open_text

_ROWS_A_BATCH = 1024
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_LONGEST_CELL = 2**31 - 1  # so that a long cell spoils its own row alone


def parquet_rows(path: Path) -> Iterator[Row]:
    """A row's line is its number."""
    return _numbered(lambda: pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS_A_BATCH))


def arrow_rows(path: Path) -> Iterator[Row]:
    """Of a file as `datasets` saves it to disk. A row's line is its number."""
    return _numbered(lambda: pyarrow.ipc.open_stream(path))


def table_rows(path: Path, delimiter: str) -> Iterator[Row]:
    """The first line names the columns. A row's line is the one that it starts on."""
    csv.field_size_limit(_LONGEST_CELL)
    names: list[str] | None = None
    line = 0
    try:
        with open_text(path, newline="") as stream:
            for line, text, cells in _lines(stream, delimiter):
                if names is None and isinstance(cells, list):
                    names = cells
                elif isinstance(cells, list) and names and (other := _separator(names, delimiter)):
                    yield _checked(Row(line, text, None, other))
                elif isinstance(cells, list):
                    yield _row(line, text, names or (), cells)
                else:
                    yield _checked(Row(line, text, None, f"not CSV: {cells}"))
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        yield Row.damage(line + 1, error)


def _numbered(batches: Callable[[], Iterable[pyarrow.RecordBatch]]) -> Iterator[Row]:
    number = 0
    try:
        for batch in batches():
            for row in _rows_of(batch, number + 1):
                number += 1
                yield row
    except (OSError, pyarrow.ArrowException) as error:
        yield Row.damage(number + 1, error)


def _rows_of(batch: pyarrow.RecordBatch, first: int) -> Iterator[Row]:
    try:
        values = batch.to_pylist()
    except UnicodeDecodeError:
        single = (batch.slice(index, 1) for index in range(batch.num_rows))
        yield from (_single(number, row) for number, row in enumerate(single, first))
    else:
        yield from (Row.of(number, value) for number, value in enumerate(values, first))


def _single(number: int, row: pyarrow.RecordBatch) -> Row:
    value: dict[str, Any] = {}
    problem = None
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            (value[name],) = column.to_pylist()
        except UnicodeDecodeError:
            value[name], problem = str(column), NOT_TEXT
    found = Row.of(number, value)
    return found if problem is None else Row(number, found.text, None, problem)


def _lines(stream: TextIO, delimiter: str) -> Iterator[tuple[int, str, list[str] | csv.Error]]:
    """(line, text, cells or what is wrong) of each row that is not blank.

    A quote that never closes takes all that follows for one cell: then its own line is wrong, and
    reading goes on at the next. In a TSV, whose texts may just begin with a quotation mark, that
    line is read without quoting, and so is one whose quote takes in the cells and lines behind it.
    """
    ahead: deque[str] = deque()
    taken: list[str] = []

    def source() -> Iterator[str]:
        while text := ahead.popleft() if ahead else stream.readline():
            taken.append(text)
            yield text

    line, width = 1, 0
    reader = csv.reader(source(), delimiter=delimiter, strict=True)
    while True:
        found: list[str] | csv.Error | None
        try:
            found = next(reader, None)
        except csv.Error as error:
            found = error
        if found is None:
            return
        plain = delimiter == "\t" and _is_plain(found, width)
        if plain or isinstance(found, csv.Error):
            ahead.extendleft(reversed(taken[1:]))
            del taken[1:]
            found = taken[0].rstrip("\r\n").split(delimiter) if plain else found
            reader = csv.reader(source(), delimiter=delimiter, strict=True)
        if found:
            yield line, "".join(taken).rstrip("\r\n"), found
            width = width or (len(found) if isinstance(found, list) else 0)
        line += len(taken)
        taken.clear()


def _is_plain(found: list[str] | csv.Error, width: int) -> bool:
    """Whether what quoting makes of a row with tabs is not what it says."""
    if isinstance(found, csv.Error):
        return True
    longer = [cell for cell in found if "\n" in cell or "\r" in cell]
    return bool(longer) and (len(found) != width or any("\t" in cell for cell in longer))


def _separator(names: Sequence[str], delimiter: str) -> str | None:
    """What is wrong where the first line, as one column, names several with other marks between."""
    if len(names) > 1:
        return None
    found = next((mark for mark in _SEPARATORS if mark in names[0] and mark != delimiter), None)
    if found is None:
        return None
    return (
        f"{_SEPARATORS[found]} between the columns, not {_SEPARATORS[delimiter]}: save the file "
        "with commas as .csv, or with tabs as .tsv"
    )


def _row(line: int, text: str, names: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) > len(names):
        return _checked(Row(line, text, None, "more cells than the first line names"))
    if len(set(names)) < len(names):
        return _checked(Row(line, text, None, "two columns have the same name"))
    short = [None] * (len(names) - len(cells))
    return _checked(Row.of(line, dict(zip(names, [*cells, *short], strict=True))))


def _checked(row: Row) -> Row:
    try:
        row.text.encode()
    except UnicodeEncodeError:
        return Row.unreadable(row.line, row.text)
    return row
