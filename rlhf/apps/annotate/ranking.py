"""What an annotator answers, and the way between the order shown and the order given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field

from rlhf.data.jsonl import Part
from rlhf.data.records import Grade, Label, RankingRecord, RankingTask

Note = Annotated[str, Field(max_length=2000)]


class Answer(Part):
    """A person's ranking. ranks: one a response, 1 is best. grades: one a gap, best gap first."""

    ranks: tuple[int, ...]
    grades: tuple[Grade, ...] = ()
    label: Label
    note: Note = ""


def shown_order(annotator: str, task_id: str, count: int) -> list[int]:
    """The order in which this annotator sees a task's responses: shown place -> given index.

    It depends on the annotator and the task alone, so that a page loaded again looks the same. It
    differs between annotators, so that no response profits from its place.
    """
    order = list(range(count))
    random.Random(f"{annotator}/{task_id}").shuffle(order)
    return order


def as_given(ranks: Sequence[int], shown: Sequence[int]) -> tuple[int, ...]:
    """Ranks by shown place -> ranks by given index."""
    given = dict(zip(shown, ranks, strict=True))
    return tuple(given[index] for index in range(len(shown)))


def as_shown(ranks: Sequence[int], shown: Sequence[int]) -> list[int]:
    """Ranks by given index -> ranks by shown place."""
    return [ranks[index] for index in shown]


def dense(ranks: Sequence[int]) -> tuple[int, ...]:
    """The same order without holes: 1, 1, 3 becomes 1, 1, 2."""
    place = {rank: number for number, rank in enumerate(sorted(set(ranks)), start=1)}
    return tuple(place[rank] for rank in ranks)


def to_record(
    task: RankingTask, answer: Answer, annotator: str, time: datetime, *, record_id: str
) -> RankingRecord:
    """The ranking record of an answer in given order; the annotator's label replaces the prompt's.

    Raises:
        ValueError: ranks that are no ranking of these responses, or a gap without a grade.
    """
    gaps = len(set(answer.ranks)) - 1
    if len(answer.grades) != gaps:
        raise ValueError(f"{len(answer.grades)} grades for {gaps} gaps: grade each gap")
    return RankingRecord(
        id=record_id,
        prompt=task.prompt.model_copy(update={"label": answer.label}),
        responses=task.responses,
        ranks=answer.ranks,
        grades=answer.grades,
        annotator=annotator,
        time=time,
    )
