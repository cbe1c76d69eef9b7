"""Simulated annotators: the rubric plus noise, or a judge in their place. Never to be reported as
people."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from rlhf.config.schema import GradingSection
from rlhf.data.records import RankingRecord, RankingTask, SFTRecord
from rlhf.demo.rubric import quality

NAME = "simulated annotator (demo rubric with noise)"
TIE = 0.4
"""Perceived gaps below this are ties."""
GRADE_BOUNDS = (1.0, 1.8, 2.8, 5.0)
"""Perceived gaps, in points of quality, at which the grade rises from 1 to 2, ..., 4 to 5."""
ACCEPTABLE = 8.0
"""The authoritative annotator accepts a demonstration of at least this noise-free quality."""


def grade_of(gap: float, bounds: Sequence[float] = GRADE_BOUNDS) -> int:
    """The grade 1 to 5 of a perceived quality gap."""
    return 1 + sum(gap >= bound for bound in bounds)


def ranks_and_grades(
    perceived: Sequence[float], tie: float = TIE, bounds: Sequence[float] = GRADE_BOUNDS
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ranks (1 is best, ties share one) and the grades between neighbouring ranks.

    A response ties with the one above it when the gap between them is under `tie`, or none.
    """
    order = sorted(range(len(perceived)), key=lambda index: -perceived[index])
    ranks = [0] * len(perceived)
    grades: list[int] = []
    rank = 1
    for position, index in enumerate(order):
        if position:
            gap = perceived[order[position - 1]] - perceived[index]
            if gap >= tie and gap > 0:
                rank += 1
                grades.append(grade_of(gap, bounds))
        ranks[index] = rank
    return tuple(ranks), tuple(grades)


def annotate(tasks: Iterable[RankingTask], noise: float, seed: int) -> Iterator[RankingRecord]:
    """Rank every task. noise: standard deviation of the perceived quality, in points of 10.

    The noise depends on the seed, the task's id and the text alone: annotation resumes exactly, and
    two equal answers tie.
    """
    for task in tasks:
        perceived = [
            quality(task.prompt, response.text)
            + random.Random(f"{seed}:{task.id}:{response.text}").gauss(0, noise)
            for response in task.responses
        ]
        ranks, grades = ranks_and_grades(perceived)
        yield RankingRecord(
            id=task.id,
            prompt=task.prompt,
            responses=task.responses,
            ranks=ranks,
            grades=grades,
            annotator=NAME,
            simulated=True,
        )


def judge_annotates(
    task: RankingTask, scores: Sequence[float], spread: float, grading: GradingSection, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ranks and grades by a judge's scores of the responses, [K], in units of `spread`.

    The noise depends on the seed, the task's id and the text alone, as in `annotate`.
    """
    perceived = [
        score / spread + random.Random(f"{seed}:{task.id}:{response.text}").gauss(0, grading.noise)
        for score, response in zip(scores, task.responses, strict=True)
    ]
    return ranks_and_grades(perceived, grading.tie, grading.bounds)


def authoritative(record: SFTRecord) -> bool:
    """The simulated authoritative annotator's verdict on a demonstration: noise-free."""
    from rlhf.data.records import PromptRecord

    prompt = PromptRecord(
        id=record.id,
        messages=record.messages[:-1],
        category=record.category,
        label=record.label,
        language=record.language,
        metadata=record.metadata,
    )
    return quality(prompt, record.messages[-1].content) >= ACCEPTABLE
