"""An annotation job: the tasks files that TASKS names, the database beside them, and the export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rlhf.apps.annotate.database import Database
from rlhf.apps.annotate.ranking import to_record
from rlhf.apps.annotate.store import Work, work_of
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import RankingRecord, RankingTask

# Held-out tasks come first, so that an export before the end can be evaluated.
SPLITS = ("eval_tasks.jsonl", "tasks.jsonl")


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
        written = {}
        for source in self.sources:
            records = list(self._records(source.name))
            if records:
                path = source.with_name(rankings_name(source.name))
                written[path] = write_jsonl(path, records)
        return written

    def _records(self, source: str) -> Iterator[RankingRecord]:
        answered = "FROM work WHERE task = tasks.key AND state = 'answered'"
        with self.database.reading() as connection:
            rows = connection.execute(
                f"SELECT work.key, time, (SELECT COUNT(*) {answered}) AS answers "
                "FROM work JOIN tasks ON tasks.key = task WHERE source = ? AND state = 'answered' "
                "AND NOT EXISTS (SELECT 1 FROM work WHERE task = tasks.key AND state = 'flagged') "
                "ORDER BY task, work.key",
                (source,),
            ).fetchall()
            for row in rows:
                work = work_of(connection, row["key"])
                time = datetime.fromtimestamp(row["time"], UTC)
                yield _record(work, time, alone=row["answers"] == 1)


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


def _record(work: Work, time: datetime, alone: bool) -> RankingRecord:
    """alone: the task has no other answer, so that the record can have the task's id."""
    assert work.answer is not None
    record_id = work.task.id if alone else f"{work.task.id}@{work.annotator}"
    return to_record(work.task, work.answer, work.annotator, time, record_id=record_id)
