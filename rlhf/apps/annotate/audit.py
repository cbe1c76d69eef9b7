"""The auditor's side of a job: batches to accept or to send back after a sample; flagged tasks."""

from __future__ import annotations

import hashlib
import sqlite3
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rlhf.apps.annotate.accounts import has_auditor
from rlhf.apps.annotate.database import Database
from rlhf.apps.annotate.store import Refused, Work, work_of
from rlhf.ops.intervals import wilson

SAMPLE = 10  # answers of a batch that an auditor looks at


@dataclass(frozen=True)
class Batch:
    """Answers of one annotator that are judged together.

    checked, acceptable: how many of them an auditor has looked at and found good; low, high: 95 %
    Wilson interval of the acceptable share. seconds: median time an answer took.
    """

    annotator: str
    number: int
    answers: int
    sample: int
    checked: int
    acceptable: int
    low: float
    high: float
    seconds: float
    state: Literal["waiting", "accepted", "rejected"]
    note: str


class Audit:
    """Batches and flagged tasks of a job. sample: answers of a batch that are checked."""

    def __init__(
        self, database: Database, *, sample: int = SAMPLE, now: Callable[[], float] = clock.time
    ) -> None:
        self.database, self.sample, self._now = database, sample, now

    def batches(self) -> list[Batch]:
        """All batches; those that wait for a verdict come first."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT work.annotator, work.batch, COUNT(*) AS answers, "
                "COUNT(acceptable) AS checked, COALESCE(SUM(acceptable), 0) AS good, "
                "accepted, COALESCE(v.note, '') AS note "
                "FROM work LEFT JOIN checks ON checks.work = work.key LEFT JOIN verdicts AS v "
                "ON v.annotator = work.annotator AND v.batch = work.batch "
                "WHERE work.batch IS NOT NULL GROUP BY work.annotator, work.batch "
                "ORDER BY accepted IS NOT NULL, work.batch, work.annotator"
            ).fetchall()
            return [self._batch(connection, row) for row in rows]

    def waits(self) -> bool:
        """Whether a batch waits for the verdict of somebody."""
        return has_auditor(self.database) and any(
            batch.state == "waiting" for batch in self.batches()
        )

    def to_check(self, annotator: str, number: int) -> list[tuple[Work, bool | None]]:
        """The sample of a batch, each with what an auditor found, None while nobody has looked.

        Answers are drawn by a hash of their key, so that a growing batch keeps those already drawn.
        """
        with self.database.reading() as connection:
            found = dict(
                connection.execute(
                    "SELECT work.key, acceptable FROM work LEFT JOIN checks ON checks.work = key "
                    "WHERE annotator = ? AND batch = ?",
                    (annotator, number),
                ).fetchall()
            )
            drawn = sorted(found, key=lambda key: hashlib.sha256(str(key).encode()).digest())
            chosen = drawn[: self.sample]
            chosen += [key for key in drawn[self.sample :] if found[key] is not None]
            return [
                (work_of(connection, key), None if found[key] is None else bool(found[key]))
                for key in chosen
            ]

    def check(self, auditor: str, key: int, acceptable: bool) -> None:
        """Note whether a sampled answer is acceptable."""
        with self.database.transaction() as connection:
            if not connection.execute(
                "SELECT 1 FROM work WHERE key = ? AND state = 'answered'", (key,)
            ).fetchone():
                raise Refused("gone")
            connection.execute(
                "INSERT INTO checks VALUES (?, ?, ?) ON CONFLICT (work) DO UPDATE "
                "SET acceptable = excluded.acceptable, auditor = excluded.auditor",
                (key, acceptable, auditor),
            )

    def judge(self, auditor: str, annotator: str, number: int, accept: bool, note: str) -> None:
        """Accept a batch, or send it back: its answers count no more, its tasks are open again.

        Raises:
            ValueError: a batch is sent back without a word why.
            Refused: it was sent back before (gone), since when its tasks may be in other hands.
        """
        if not accept and not note.strip():
            raise ValueError("say in the note why the batch goes back; the annotator reads it")
        place = (annotator, number)
        with self.database.transaction() as connection:
            answered = connection.execute(
                "SELECT COUNT(*) FROM work "
                "WHERE annotator = ? AND batch = ? AND state = 'answered'",
                place,
            ).fetchone()[0]
            if not answered:
                raise Refused("gone")
            connection.execute(
                "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "accepted = excluded.accepted, note = excluded.note, auditor = excluded.auditor, "
                "time = excluded.time",
                (*place, accept, note, auditor, self._now()),
            )
            if not accept:
                connection.execute(
                    "UPDATE work SET state = 'rejected' WHERE annotator = ? AND batch = ?", place
                )

    def flagged(self) -> list[Work]:
        """What annotators have flagged and nobody has put back."""
        with self.database.reading() as connection:
            keys = connection.execute("SELECT key FROM work WHERE state = 'flagged' ORDER BY key")
            return [work_of(connection, row["key"]) for row in keys.fetchall()]

    def put_back(self, key: int) -> None:
        """Return a flagged task to the others; for whoever flagged it, it counts as skipped."""
        with self.database.transaction() as connection:
            changed = connection.execute(
                "UPDATE work SET state = 'skipped' WHERE key = ? AND state = 'flagged'", (key,)
            ).rowcount
            if not changed:
                raise Refused("gone")

    def sent_back(self, annotator: str) -> list[Batch]:
        """This annotator's batches that were sent back, the latest first."""
        mine = (batch for batch in self.batches() if batch.annotator == annotator)
        return [batch for batch in mine if batch.state == "rejected"][::-1]

    def _batch(self, connection: sqlite3.Connection, row: sqlite3.Row) -> Batch:
        # The middle row: with an even count the upper of the two, near enough for a hint of haste.
        seconds = connection.execute(
            "SELECT time - opened FROM work WHERE annotator = ? AND batch = ? "
            "ORDER BY time - opened LIMIT 1 OFFSET ?",
            (row["annotator"], row["batch"], row["answers"] // 2),
        ).fetchone()[0]
        low, high = wilson(row["good"], row["checked"])
        verdicts: dict[int | None, Literal["waiting", "accepted", "rejected"]]
        verdicts = {None: "waiting", 1: "accepted", 0: "rejected"}
        return Batch(
            annotator=row["annotator"],
            number=row["batch"],
            answers=row["answers"],
            sample=min(self.sample, row["answers"]),
            checked=row["checked"],
            acceptable=row["good"],
            low=low,
            high=high,
            seconds=seconds,
            state=verdicts[row["accepted"]],
            note=row["note"],
        )
