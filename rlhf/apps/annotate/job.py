"""An annotation job: the tasks files that TASKS names, the database beside them, and the export."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rlhf.apps.annotate.database import Database
from rlhf.apps.annotate.ranking import to_record
from rlhf.apps.annotate.store import Work, work_of
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import RankingRecord, RankingTask
from rlhf.runtime.manifest import read_manifest

# Held-out tasks come first, so that an export before the end can be evaluated.
SPLITS = ("eval_tasks.jsonl", "tasks.jsonl")
WITHDRAWN = ".withdrawn"

_COUNTING = """
    SELECT work.key, time, (SELECT COUNT(*) FROM work WHERE task = tasks.key
                            AND state = 'answered') AS answers
    FROM work JOIN tasks ON tasks.key = task WHERE source = ? AND state = 'answered'
    AND NOT EXISTS (SELECT 1 FROM work WHERE task = tasks.key AND state = 'flagged')
    ORDER BY task, work.key
"""
# Rankings of a job that is not done are kept if somebody has asked for them, and all of them count.
_UNDUE = """
    SELECT 1 FROM exported JOIN work ON work.key = exported.work
    WHERE source = ? AND (NOT by_hand OR state != 'answered' OR EXISTS (
        SELECT 1 FROM work AS other WHERE other.task = work.task AND other.state = 'flagged'))
"""


@dataclass(frozen=True)
class Job:
    """Tasks files and the database beside them."""

    database: Database
    sources: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        return self.sources[0].parent

    def export(self) -> dict[Path, int]:
        """Write the ranking records of each tasks file beside it; returns how many went where.

        Answers of batches that were sent back and of flagged tasks stay out. Where nothing was
        ranked no file is written: an empty one would be taken for a result.
        """
        with self.database.transaction() as connection:
            return self._write(connection, self.sources, by_hand=True)

    def keep_up(self, is_done: Callable[[], bool]) -> dict[Path, int]:
        """Export if the job is done, else withdraw what was exported before its time.

        What somebody has asked for before the end is written anew where an answer in it has
        changed. Rankings that a run has used stay as they are: all that it trained since comes from
        them. So do those that are somebody else's.
        """
        # Nobody else writes meanwhile, so that no verdict comes between the question and the file.
        with self.database.transaction() as connection:
            used = self.used()
            unused = [source for source in self.sources if rankings_of(source) not in used]
            if is_done():
                foreign = self._marked(connection, "foreign")
                ours = [source for source in unused if source not in foreign]
                return self._write(connection, ours, by_hand=False)
            self._withdraw(connection)
            behind = self._marked(connection, "behind")
            return self._catch_up(connection, [source for source in unused if source in behind])

    def withdraw(self) -> list[Path]:
        """Withdraw what was exported of a job that is not done; returns what the files were."""
        with self.database.transaction() as connection:
            return self._withdraw(connection)

    def used(self) -> list[Path]:
        """Rankings that are the results of a run's finished stage."""
        manifest = read_manifest(self.folder)
        results = manifest.outputs if manifest is not None and manifest.status == "done" else {}
        rankings = (rankings_of(source) for source in self.sources)
        return [path for path in rankings if path.name in results]

    def foreign(self) -> list[Path]:
        """Rankings that are somebody else's, so that only an export by hand writes over them."""
        with self.database.reading() as connection:
            return [rankings_of(source) for source in self._marked(connection, "foreign")]

    def disown(self, connection: sqlite3.Connection, source: Path) -> None:
        """What lies beside a tasks file from now on is somebody else's."""
        self._forget(connection, source)
        connection.execute("INSERT INTO marks VALUES (?, 'foreign')", (source.name,))

    def _write(
        self, connection: sqlite3.Connection, sources: Sequence[Path], *, by_hand: bool
    ) -> dict[Path, int]:
        written = {}
        for source in sources:
            rows = connection.execute(_COUNTING, (source.name,)).fetchall()
            if rows:
                path = rankings_of(source)
                written[path] = self._write_rows(connection, source, rows, by_hand=by_hand)
            else:
                self._put_away(connection, source)
        return written

    def _catch_up(self, connection: sqlite3.Connection, sources: Sequence[Path]) -> dict[Path, int]:
        """Write the answers of an export by hand anew, and no others."""
        written = {}
        for source in sources:
            asked = connection.execute("SELECT work FROM exported WHERE source = ?", (source.name,))
            keys = {row["work"] for row in asked}
            counting = connection.execute(_COUNTING, (source.name,))
            rows = [row for row in counting if row["key"] in keys]
            path = rankings_of(source)
            written[path] = self._write_rows(connection, source, rows, by_hand=True)
        return written

    def _write_rows(
        self,
        connection: sqlite3.Connection,
        source: Path,
        rows: Sequence[sqlite3.Row],
        *,
        by_hand: bool,
    ) -> int:
        """Write these answers beside their tasks file, and note that they are there."""
        count = write_jsonl(rankings_of(source), _records(connection, rows))
        self._forget(connection, source)
        connection.executemany(
            "INSERT INTO exported VALUES (?, ?, ?)",
            [(source.name, row["key"], by_hand) for row in rows],
        )
        return count

    def _withdraw(self, connection: sqlite3.Connection) -> list[Path]:
        undue = [
            source
            for source in self.sources
            if connection.execute(_UNDUE, (source.name,)).fetchone()
        ]
        return [rankings_of(source) for source in undue if self._put_away(connection, source)]

    def _put_away(self, connection: sqlite3.Connection, source: Path) -> bool:
        """Rename the rankings of a tasks file, if they are ours and no run has used them."""
        path = rankings_of(source)
        ours = connection.execute("SELECT 1 FROM exported WHERE source = ?", (source.name,))
        if ours.fetchone() is None or path in self.used():
            return False
        there = path.is_file()
        if there:
            path.replace(path.with_name(path.name + WITHDRAWN))
        self._forget(connection, source)
        return there

    def _forget(self, connection: sqlite3.Connection, source: Path) -> None:
        """Nothing is known any more of the rankings beside a tasks file."""
        for table in ("exported", "marks"):
            connection.execute(f"DELETE FROM {table} WHERE source = ?", (source.name,))

    def _marked(self, connection: sqlite3.Connection, mark: str) -> list[Path]:
        """Tasks files whose rankings have this mark; it means nothing once these are gone."""
        rows = connection.execute("SELECT source FROM marks WHERE mark = ?", (mark,))
        names = {row["source"] for row in rows}
        marked = (source for source in self.sources if source.name in names)
        return [source for source in marked if rankings_of(source).is_file()]


def open_job(tasks: Path) -> Job:
    """The job of a collect folder or of one tasks file; begins it when it is new.

    Raises:
        ValueError: no tasks there, a bad line, or tasks that changed under the annotators' hands.
    """
    if tasks.is_dir():
        sources = tuple(tasks / name for name in SPLITS if (tasks / name).is_file())
        if not sources:
            raise ValueError(f"{tasks}: no tasks.jsonl in it; rlhf collect CONFIG writes one")
        path = tasks / "annotation.sqlite"
    else:
        sources = (tasks,)
        path = tasks.with_name(f"{tasks.name.split('.')[0]}.annotation.sqlite")
    loaded = {source.name: list(_tasks(source)) for source in sources}
    database = Database(path)
    for name, records in loaded.items():
        database.load(name, records)
    return Job(database, sources)


def _tasks(source: Path) -> Iterator[RankingTask]:
    for task in read_jsonl(source, RankingTask):
        if len(task.responses) < 2:
            raise ValueError(
                f"{source}: task {task.id!r} has one response; two or more can be ranked"
            )
        yield task


def rankings_name(tasks_name: str) -> str:
    """eval_tasks.jsonl -> eval_rankings.jsonl, x.jsonl -> x_rankings.jsonl."""
    stem = tasks_name.removesuffix(".gz").removesuffix(".jsonl")
    head = stem.removesuffix("tasks")
    return f"{head}rankings.jsonl" if head != stem else f"{stem}_rankings.jsonl"


def rankings_of(source: Path) -> Path:
    """Where the rankings of a tasks file lie."""
    return source.with_name(rankings_name(source.name))


def _records(
    connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]
) -> Iterator[RankingRecord]:
    for row in rows:
        time = datetime.fromtimestamp(row["time"], UTC)
        yield _record(work_of(connection, row["key"]), time, alone=row["answers"] == 1)


def _record(work: Work, time: datetime, alone: bool) -> RankingRecord:
    """alone: the task has no other answer, so that the record can have the task's id."""
    assert work.answer is not None
    record_id = work.task.id if alone else f"{work.task.id}@{work.annotator}"
    return to_record(work.task, work.answer, work.annotator, time, record_id=record_id)
