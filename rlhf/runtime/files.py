"""Files that are either whole or not there, and hashes of what they hold."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

ANSWERS = "*annotation.sqlite"
"""What people have answered (rlhf annotate). It is kept as a result is, and is none: it goes on
changing, and the files beside it come and go with the page."""
# Logs, records about a stage, and what only resuming needs: they differ between equal results.
RECORDS = (
    f"{ANSWERS}*",
    "manifest.json",
    "summary.json",
    "metrics.jsonl",
    "samples.jsonl",
    "README.md",
    "*.log",
    "*.withdrawn",
    "*.png",
    ".*",
)
CHECKPOINTS = "checkpoints"
"""Folder in a stage's directory for what it resumes from; removed once the stage is done."""
RECORD_FOLDERS = (CHECKPOINTS, "tensorboard", "wandb", "mlruns", "report")
FULL = (errno.ENOSPC, errno.EDQUOT)
"""The disk is full, or the user's part of it."""
BY_HAND = (ANSWERS, "*rankings.jsonl")
"""May be people's work of weeks: no folder with one of these is removed for another."""


LEFT = 24 * 3600.0
"""Seconds after which a draft, written within one, has been left."""
_DRAFT = re.compile(r"\..+\.(json|jsonl|yaml|md|csv)\.\d+")


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_results(folder: Path) -> None:
    """Force the results in a folder to the disk, however deep they lie."""
    for result in (folder / name for name in result_names(folder)):
        for path in (*result.rglob("*"), result):
            sync(path)
    sync(folder)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises:
        ValueError: something else has that name, nobody may write there, or no folder can be there.
        OSError: the disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise ValueError(f"{path}: cannot be a folder: {error.strerror}; name another") from None


def write_text(path: Path, text: str) -> None:
    """Replace the file in one step: readers find the old text or the new, also after a crash."""
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sweep_drafts(root: Path) -> None:
    """Remove the drafts under a folder that killed processes have left of `write_text`.

    Whose process is gone cannot be told of another host's: what is older than a day is nobody's.
    Of the kinds that a run writes alone: other hidden files with a number are somebody's own.
    """
    for draft in root.rglob(".*.[0-9]*"):
        with suppress(OSError):  # somebody else has removed it, or may alone
            old = time.time() - draft.lstat().st_mtime > LEFT
            if old and _DRAFT.fullmatch(draft.name) and draft.is_file():
                draft.unlink()


def hash_section(*sections: Any) -> str:
    """Hash of config sections and plain values, equal exactly when their values are."""
    text = json.dumps([to_jsonable_python(section) for section in sections], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_path(path: Path) -> str:
    """Hash of a file's content, or of a folder's: its files' names and contents, records left out.

    A file is read once in a process while its size and time stay the same.
    Raises ValueError when nothing is there.
    """
    if path.is_file():
        return _file_hash(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or directory")
    digest = hashlib.sha256()
    for file in _results(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_hash(file)}\n".encode())
    return digest.hexdigest()


def result_names(folder: Path) -> list[str]:
    """Names in the folder that hold results: everything but records."""
    return [path.name for path in sorted(folder.iterdir()) if not _is_record(path)]


def _results(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _is_record(path):
            continue
        if path.is_dir():
            yield from _results(path)
        else:
            yield path


def _is_record(path: Path) -> bool:
    patterns = RECORD_FOLDERS if path.is_dir() else RECORDS
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)


def _file_hash(path: Path) -> str:
    status = path.stat()
    return _content_hash(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
