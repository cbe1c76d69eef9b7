"""What a conversion reads: a file, the files of a folder, or a dataset on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

from rlhf.data.formats.rows import Row, read_rows
from rlhf.data.formats.tables import arrow_rows, parquet_rows, table_rows
from rlhf.runtime.quiet import quiet

_TABLES = {".csv": ",", ".tsv": "\t"}  # and what stands between two cells
_TEXTS = (".json", ".jsonl", ".ndjson", *_TABLES)
_BINARIES = {".parquet": parquet_rows, ".arrow": arrow_rows}
SUFFIXES = (*_TEXTS, *(f"{suffix}.gz" for suffix in _TEXTS), *_BINARIES)
_OF_SAVED = ("dataset_info.json", "state.json", "dataset_dict.json")  # `datasets`' own, by .arrow
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")

Sources = dict[str, Callable[[], Iterator[Row]]]
"""The name of a file, or of a split -> its rows."""


def sources(place: str) -> tuple[Sources, tuple[str, ...]]:
    """What a place holds, by name, and the files of a folder that hold no rows.

    Args:
        place: a file, a folder, or "user/name" or "user/name:split" of a dataset on the hub.

    Raises:
        ValueError: there is nothing to read.
    """
    path = Path(place)
    if path.is_file():
        return {path.name: _reader(path)}, ()
    if path.is_dir():
        return _folder(path)
    found = _HUB_NAME.fullmatch(place)
    if found is None:
        raise ValueError(f"{path}: no such file or folder")
    return _hub(found[1], found[2]), ()


def _folder(folder: Path) -> tuple[Sources, tuple[str, ...]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = {file.relative_to(folder).as_posix(): file for file in files}
    arrow = [file.parent for file in files if file.suffix == ".arrow"]
    saved = {*arrow, *(folder.parent for folder in arrow)}  # a dataset, or its splits
    chosen = {
        name: _reader(file)
        for name, file in names.items()
        if name.lower().endswith(SUFFIXES) and not (file.name in _OF_SAVED and file.parent in saved)
    }
    if not chosen:
        raise ValueError(f"{folder}: no file in it ends with {', '.join(SUFFIXES)}")
    return chosen, tuple(name for name in names if name not in chosen)


def _reader(path: Path) -> Callable[[], Iterator[Row]]:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in _TABLES:
        return lambda: table_rows(path, _TABLES[suffix])
    read = _BINARIES.get(suffix, read_rows)
    return lambda: read(path)


def _hub(name: str, split: str | None) -> Sources:
    """Each split of a dataset, or the one asked for, as a stream. Runs no code of the dataset's."""
    try:
        with quiet():
            found = datasets.load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ValueError(
            f"{name}: no such file or folder, nor a dataset that the hub gives: {reason}; without "
            "a network, give --in the dataset's folder"
        ) from None
    parts = {split: found} if split else found
    return {f"{name}:{part}": _stream(f"{name}:{part}", rows) for part, rows in parts.items()}


def _stream(name: str, rows: Any) -> Callable[[], Iterator[Row]]:
    def read() -> Iterator[Row]:
        number = 0
        try:
            for number, row in enumerate(rows, start=1):
                yield Row.of(number, row)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            # Less than the whole would pass for it: nothing is written.
            reason = str(error).split("\n")[0]
            raise ValueError(f"{name}: stopped after row {number}: {reason}; try again") from None

    return read
