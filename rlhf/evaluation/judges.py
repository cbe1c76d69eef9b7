"""Who says which of two answers to a prompt is the better one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlhf.data.records import PromptRecord
from rlhf.evaluation.answers import Answer, Scorer
from rlhf.runtime.distributed import Runtime


class Judge(Protocol):
    """name: for the report. simulated: a program, or a model that stands in for people or
    learnt from a program."""

    @property
    def name(self) -> str: ...

    @property
    def simulated(self) -> bool: ...

    def compare(
        self, prompts: Sequence[PromptRecord], before: Sequence[Answer], after: Sequence[Answer]
    ) -> tuple[list[float], list[float]]:
        """Qualities of both answers to each prompt, [N] each, comparable within a prompt."""


@dataclass(frozen=True)
class Grader:
    """A judge that gives every answer a quality of its own, whatever it is compared with."""

    name: str
    simulated: bool
    qualities: Callable[[Sequence[PromptRecord], Sequence[Answer]], list[float]]

    def compare(
        self, prompts: Sequence[PromptRecord], before: Sequence[Answer], after: Sequence[Answer]
    ) -> tuple[list[float], list[float]]:
        return self.qualities(prompts, before), self.qualities(prompts, after)


def reward_model_judge(
    path: Path, runtime: Runtime, batch_size: int, note: str = "", simulated: bool = False
) -> Grader:
    """A reward model's directory as a judge. note: what the report should say behind its name.
    simulated: it stands in for people, or learnt from a program."""
    scorer = Scorer.load(path, runtime)

    def qualities(prompts: Sequence[PromptRecord], answers: Sequence[Answer]) -> list[float]:
        return scorer.scores(prompts, answers, batch_size)

    return Grader(f"reward model {path}{note}", simulated, qualities)
