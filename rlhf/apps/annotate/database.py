"""The SQLite file of a job: a change is one transaction, on disk before anybody is told of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from rlhf.data.records import RankingTask
from rlhf.runtime.files import FULL

PATIENCE = 30.0  # seconds to wait for another writer
REASONS = {
    "full": "the disk is full, or fails; free some space, and do it again",
    "busy": f"something else has been writing to it for {PATIENCE:.0f} seconds; do it again",
    "denied": "cannot be opened, or written to; see that this user may write to it and its folder",
}
# A full disk is often but an I/O error: no room for the index of what is written ahead.
CODES = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "full",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_CANTOPEN: "denied",
    sqlite3.SQLITE_READONLY: "denied",
    sqlite3.SQLITE_PERM: "denied",
}

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    name TEXT PRIMARY KEY,
    password TEXT NOT NULL,             -- scrypt$salt$hash
    auditor INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS tasks (
    key INTEGER PRIMARY KEY,            -- tasks are handed out in this order
    source TEXT NOT NULL,               -- name of the tasks file
    id TEXT NOT NULL,
    record TEXT NOT NULL,               -- the RankingTask as JSON
    UNIQUE (source, id)
);
-- One row for each time that a task was handed to an annotator.
CREATE TABLE IF NOT EXISTS work (
    key INTEGER PRIMARY KEY,
    task INTEGER NOT NULL REFERENCES tasks (key),
    annotator TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('leased', 'skipped', 'flagged', 'answered', 'rejected')),
    shown TEXT NOT NULL,                -- shown place -> given index, JSON
    opened REAL NOT NULL,               -- seconds since the epoch, as are the other times
    expires REAL,                       -- of a lease
    batch INTEGER,                      -- of an answer, counted per annotator
    answer TEXT,                        -- in given order, JSON
    note TEXT NOT NULL DEFAULT '',      -- of a flag
    time REAL                           -- of the answer
);
CREATE UNIQUE INDEX IF NOT EXISTS once_each ON work (task, annotator) WHERE state != 'rejected';
CREATE INDEX IF NOT EXISTS work_of_annotator ON work (annotator, state);
-- SQLite does not use once_each, which lacks the rejected rows, to find what has some other state.
CREATE INDEX IF NOT EXISTS work_of_task ON work (task, state);
CREATE TABLE IF NOT EXISTS verdicts (
    annotator TEXT NOT NULL,
    batch INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    note TEXT NOT NULL,
    auditor TEXT NOT NULL,
    time REAL NOT NULL,
    PRIMARY KEY (annotator, batch)
);
CREATE TABLE IF NOT EXISTS checks (
    work INTEGER PRIMARY KEY REFERENCES work (key),
    acceptable INTEGER NOT NULL,
    auditor TEXT NOT NULL
);
-- The answers in the rankings that lie beside a tasks file, while these are ours.
CREATE TABLE IF NOT EXISTS exported (
    source TEXT NOT NULL,
    work INTEGER NOT NULL REFERENCES work (key),
    by_hand INTEGER NOT NULL,           -- before the job was done, because somebody asked for it
    PRIMARY KEY (source, work)
);
-- What else is to be known of the rankings beside a tasks file: they are somebody else's (foreign),
-- or an answer in them was corrected since (behind).
CREATE TABLE IF NOT EXISTS marks (
    source TEXT PRIMARY KEY,
    mark TEXT NOT NULL CHECK (mark IN ('foreign', 'behind'))
);
"""


class Moved(ValueError):
    """The file that was opened is no longer in its place."""


class Unsaved(OSError):
    """The file takes nothing now. word: of REASONS."""

    def __init__(self, path: Path, word: str) -> None:
        self.word, self.reason = word, REASONS[word]
        super().__init__(f"{path}: {self.reason}")


class Denied(Unsaved, ValueError):
    """The file, or its folder, is not for this user: the one whose command it is mends that."""


class Database:
    """One file, shared by threads and processes: each transaction opens a connection of its own.

    Each raises Moved when the file is gone or another one has its place, and makes none anew;
    Unsaved when the disk is full, also for what is written beside it meanwhile, and Denied.
    """

    def __init__(self, path: Path) -> None:
        """Raises ValueError for a file that is damaged, Unsaved and Denied."""
        self.path = path
        try:
            with closing(self._open("rwc")) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(SCHEMA)
        except sqlite3.OperationalError as error:
            raise _told(path, error) from None
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: {error}; restore it from a copy") from None
        self._identity = _identity(path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, alone from its first statement on; an exception undoes all of it."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A consistent view that waits for no writer."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(self._open("rw")) as connection:
                self._check_place()
                yield connection
        except (sqlite3.DatabaseError, OSError) as error:
            self._check_place()
            raise _told(self.path, error) from None

    def _open(self, mode: Literal["rw", "rwc"]) -> sqlite3.Connection:
        """mode: rwc makes the file where there is none."""
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _check_place(self) -> None:
        if _identity(self.path) != self._identity:
            raise Moved(
                f"{self.path}: moved while it was in use, as a run does that begins this stage "
                "anew; the answers are in the run's aside/ now; start rlhf annotate again"
            ) from None

    def load(self, source: str, tasks: Sequence[RankingTask]) -> None:
        """Make the tasks of a file known. Those already worked on must be what they were.

        Raises:
            ValueError: a task that somebody has worked on has changed or is gone.
        """
        new = {task.id: task.model_dump_json(exclude_none=True) for task in tasks}
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT key, id, record, "
                "EXISTS (SELECT 1 FROM work WHERE task = tasks.key) AS used "
                "FROM tasks WHERE source = ?",
                (source,),
            )
            known = {row["id"]: row for row in rows}
            for task_id, row in known.items():
                if new.get(task_id) == row["record"]:
                    continue
                if row["used"]:
                    raise ValueError(
                        f"{source}: task {task_id!r} is not what people worked on; "
                        f"move {self.path.name} aside to begin anew, or restore the tasks"
                    )
                connection.execute("DELETE FROM tasks WHERE key = ?", (row["key"],))
            for task_id, record in new.items():
                if task_id not in known or known[task_id]["record"] != record:
                    connection.execute(
                        "INSERT INTO tasks (source, id, record) VALUES (?, ?, ?)",
                        (source, task_id, record),
                    )


def _told(path: Path, error: sqlite3.DatabaseError | OSError) -> Exception:
    """Unsaved or Denied where it is that, else the error itself."""
    if isinstance(error, PermissionError):
        return Denied(Path(error.filename or path), "denied")
    if isinstance(error, OSError):
        return Unsaved(path, "full") if error.errno in FULL else error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without its details
    word = CODES.get(code)
    return error if word is None else (Denied if word == "denied" else Unsaved)(path, word)


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file keeps when it is renamed; None where there is none. Raises Denied."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise _told(path, error) from None
    return found.st_dev, found.st_ino
