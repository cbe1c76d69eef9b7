"""Config of the capability checks: benchmarks before and after each stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf.config.base import Positive, Section


class CapabilitySection(Section):
    """Benchmarks by lm-evaluation-harness, of the base and of what each stage has made of it.

    tasks: names of tasks or groups, the harness's or those of `include`. include: folders of task
    files of one's own. shots: solved examples before each question, where the task has any; null is
    the task's own number. limit: questions of each task (mmlu has 57 tasks); null asks all.
    batch_size: questions at a time.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "ceval-valid",
        "cmmlu",
        "mmlu",
        "gsm8k",
    )
    include: tuple[str, ...] = ()
    shots: Annotated[int, Field(ge=0)] | None = 5
    limit: Positive | None = None
    batch_size: Positive = 8
