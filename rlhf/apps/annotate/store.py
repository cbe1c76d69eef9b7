"""Handing out tasks and taking answers: who has what, for how long, and what came of it."""

from __future__ import annotations

import json
import sqlite3
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from rlhf.apps.annotate.database import Database
from rlhf.apps.annotate.ranking import Answer, as_given, dense, shown_order, to_record
from rlhf.data.records import RankingTask

LEASE = 30 * 60.0  # seconds without a sign of life after which a task is anybody's again
BATCH = 50  # answers that are accepted or sent back together

# A task needs no more hands once it was flagged, or when answers and live leases reach the overlap.
_OPEN = """
    NOT EXISTS (SELECT 1 FROM work WHERE task = tasks.key AND state = 'flagged')
    AND (SELECT COUNT(*) FROM work WHERE task = tasks.key
         AND (state = 'answered' OR (state = 'leased' AND expires > :now))) < :overlap
"""
_NOT_MINE = """
    NOT EXISTS (SELECT 1 FROM work WHERE task = tasks.key AND annotator = :annotator
                AND state != 'rejected')
"""


class Refused(Exception):
    """What is asked for is no longer possible. The message is one word; the page translates it."""


@dataclass(frozen=True)
class Work:
    """A task in the hands of an annotator. shown: shown place -> given index."""

    key: int
    task: RankingTask
    annotator: str
    state: str
    shown: list[int]
    answer: Answer | None
    note: str
    batch: int | None
    seconds: float | None


@dataclass(frozen=True)
class Progress:
    """Counts of tasks; settled ones need no more answers, and the flagged ones are among them."""

    tasks: int
    settled: int
    flagged: int
    answered_by_me: int
    skipped_by_me: int


class Store:
    """The annotators' side of a job. overlap: different annotators that each task needs."""

    def __init__(
        self,
        database: Database,
        *,
        overlap: int = 1,
        lease: float = LEASE,
        batch: int = BATCH,
        now: Callable[[], float] = clock.time,
    ) -> None:
        self.database, self.overlap, self.lease, self.batch = database, overlap, lease, batch
        self._now = now

    def claim(self, annotator: str) -> Work | None:
        """The task this annotator has open, else the next one, leased; None when there is none."""
        now = self._now()
        values = {"annotator": annotator, "now": now, "overlap": self.overlap}
        with self.database.transaction() as connection:
            mine = connection.execute(
                "SELECT key FROM work WHERE annotator = ? AND state = 'leased'", (annotator,)
            ).fetchone()
            if mine:
                self._renew(connection, mine["key"])
                return work_of(connection, mine["key"])
            row = connection.execute(
                f"SELECT * FROM tasks WHERE {_NOT_MINE} AND {_OPEN} ORDER BY key LIMIT 1", values
            ).fetchone()
            if row is None:
                return None
            # Whoever let the lease run out is no longer waited for.
            connection.execute(
                "DELETE FROM work WHERE task = ? AND state = 'leased' AND expires <= ?",
                (row["key"], now),
            )
            count = len(RankingTask.model_validate_json(row["record"]).responses)
            shown = json.dumps(shown_order(annotator, row["id"], count))
            cursor = connection.execute(
                "INSERT INTO work (task, annotator, state, shown, opened, expires) "
                "VALUES (?, ?, 'leased', ?, ?, ?)",
                (row["key"], annotator, shown, now, now + self.lease),
            )
            assert cursor.lastrowid is not None
            return work_of(connection, cursor.lastrowid)

    def keep(self, annotator: str, key: int) -> None:
        """A sign of life: the lease runs anew."""
        with self.database.transaction() as connection:
            if self._mine(connection, annotator, key)["state"] == "leased":
                self._renew(connection, key)

    def answer(self, annotator: str, key: int, answer: Answer) -> None:
        """Store an answer to a leased task, or a better one to an answered one.

        Args:
            answer: its ranks are by shown place.

        Raises:
            ValueError: not a ranking of this task, or a gap is not graded.
            Refused: the task went to somebody else (lapsed), or its batch was judged (closed).
        """
        with self.database.transaction() as connection:
            row = self._mine(connection, annotator, key)
            if row["state"] not in ("leased", "answered"):
                raise Refused("lapsed")
            work = work_of(connection, key)
            if len(answer.ranks) != len(work.shown):
                raise ValueError(f"{len(answer.ranks)} ranks for {len(work.shown)} responses")
            ranks = as_given(dense(answer.ranks), work.shown)
            answer = answer.model_copy(update={"ranks": ranks})
            now = self._now()
            # Building the record checks the answer now, while its author can still mend it.
            to_record(work.task, answer, annotator, datetime.fromtimestamp(now, UTC), record_id="-")
            batch = row["batch"] or self._batch_of(connection, annotator)
            if row["batch"] and _is_judged(connection, annotator, row["batch"]):
                raise Refused("closed")
            connection.execute(
                "UPDATE work SET state = 'answered', answer = ?, batch = ?, expires = NULL, "
                "time = CASE WHEN state = 'leased' THEN ? ELSE time END WHERE key = ?",
                (answer.model_dump_json(), batch, now, key),
            )
            connection.execute("DELETE FROM checks WHERE work = ?", (key,))
            # In this transaction, so that rankings with it in them catch up also after a crash.
            connection.execute(
                "INSERT OR IGNORE INTO marks SELECT source, 'behind' FROM exported WHERE work = ?",
                (key,),
            )

    def skip(self, annotator: str, key: int) -> None:
        """Leave a task to others."""
        self._set_aside(annotator, key, "skipped", "")

    def flag(self, annotator: str, key: int, note: str) -> None:
        """Take a task that is itself wrong out of circulation, until an auditor puts it back."""
        self._set_aside(annotator, key, "flagged", note)

    def take_up_skipped(self, annotator: str) -> None:
        """Let what this annotator skipped come to them again."""
        with self.database.transaction() as connection:
            connection.execute(
                "DELETE FROM work WHERE annotator = ? AND state = 'skipped'", (annotator,)
            )

    def neighbour(self, annotator: str, key: int, step: int) -> Work | None:
        """The annotator's answer before (step -1) or after (+1) a piece of work, if any."""
        order, sign = ("DESC", "<") if step < 0 else ("ASC", ">")
        with self.database.reading() as connection:
            row = connection.execute(
                f"SELECT key FROM work WHERE annotator = ? AND state = 'answered' AND key {sign} ? "
                f"ORDER BY key {order} LIMIT 1",
                (annotator, key),
            ).fetchone()
            return work_of(connection, row["key"]) if row else None

    def progress(self, annotator: str = "") -> Progress:
        """How far the job is, and how much of it is this annotator's."""
        with self.database.reading() as connection:
            tasks = connection.execute("SELECT COUNT(*) FROM tasks").fetchone()[0]
            # At time infinity no lease is alive: only answers and flags settle a task.
            unsettled = connection.execute(
                f"SELECT COUNT(*) FROM tasks WHERE {_OPEN}",
                {"now": float("inf"), "overlap": self.overlap},
            ).fetchone()[0]
            flagged = connection.execute(
                "SELECT COUNT(DISTINCT task) FROM work WHERE state = 'flagged'"
            ).fetchone()[0]
            mine = connection.execute(
                "SELECT COUNT(*) FILTER (WHERE state = 'answered'), "
                "COUNT(*) FILTER (WHERE state = 'skipped') FROM work WHERE annotator = ?",
                (annotator,),
            ).fetchone()
        return Progress(tasks, tasks - unsettled, flagged, *mine)

    def _set_aside(self, annotator: str, key: int, state: str, note: str) -> None:
        with self.database.transaction() as connection:
            if self._mine(connection, annotator, key)["state"] != "leased":
                raise Refused("lapsed")
            connection.execute(
                "UPDATE work SET state = ?, note = ?, expires = NULL WHERE key = ?",
                (state, note, key),
            )

    def _renew(self, connection: sqlite3.Connection, key: int) -> None:
        connection.execute(
            "UPDATE work SET expires = ? WHERE key = ?", (self._now() + self.lease, key)
        )

    def _mine(self, connection: sqlite3.Connection, annotator: str, key: int) -> sqlite3.Row:
        row: sqlite3.Row | None = connection.execute(
            "SELECT state, batch FROM work WHERE key = ? AND annotator = ?", (key, annotator)
        ).fetchone()
        if row is None:
            raise Refused("lapsed")
        return row

    def _batch_of(self, connection: sqlite3.Connection, annotator: str) -> int:
        """The batch that a new answer joins: the last one, unless it is full or was judged."""
        last, size = connection.execute(
            "SELECT COALESCE(MAX(batch), 1), COUNT(*) FROM work WHERE annotator = ?1 AND batch = "
            "(SELECT MAX(batch) FROM work WHERE annotator = ?1)",
            (annotator,),
        ).fetchone()
        full = size >= self.batch or _is_judged(connection, annotator, last)
        return int(last) + 1 if full else int(last)


def work_of(connection: sqlite3.Connection, key: int) -> Work:
    """One piece of work with its task."""
    row = connection.execute(
        "SELECT work.*, record FROM work JOIN tasks ON tasks.key = task WHERE work.key = ?", (key,)
    ).fetchone()
    return Work(
        key=row["key"],
        task=RankingTask.model_validate_json(row["record"]),
        annotator=row["annotator"],
        state=row["state"],
        shown=json.loads(row["shown"]),
        answer=Answer.model_validate_json(row["answer"]) if row["answer"] else None,
        note=row["note"],
        batch=row["batch"],
        seconds=row["time"] - row["opened"] if row["time"] else None,
    )


def _is_judged(connection: sqlite3.Connection, annotator: str, batch: int) -> bool:
    verdict = "SELECT 1 FROM verdicts WHERE annotator = ? AND batch = ?"
    return connection.execute(verdict, (annotator, batch)).fetchone() is not None
