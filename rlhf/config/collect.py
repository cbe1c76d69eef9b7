"""Config of collecting responses, and of who ranks them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config.base import NonNegative, Positive, SamplingSection, Section


class SourceEntry(Section):
    """A model whose responses are collected; provenance comes from here and from its files."""

    path: str
    size: str
    stage: Literal["base", "sft", "dpo", "ppo"]


class BalanceSection(Section):
    """Prompts drawn so that the categories of a taxonomy level even out.

    A category with n prompts counts n ** (1 / temperature): 1 keeps the shares, more flattens them.
    """

    level: Literal[1, 2, 3] = 3
    temperature: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2


class CollectSection(Section):
    """Responses for the reward model.

    `models` empty: every SFT model of this run. Later rounds add the previous round's PPO model.
    `balance`: by category; null draws every prompt alike.
    """

    prompts: Positive = 2000
    eval_prompts: Positive = 200
    """Held-out prompts that are answered and ranked too; the reward model is tested on these."""
    balance: BalanceSection | None = None
    responses_per_prompt: Annotated[int, Field(ge=2, le=9)] = 4
    models: tuple[SourceEntry, ...] = ()
    sampling: SamplingSection = SamplingSection()
    batch_size: Positive = 64
    """Responses sampled together, and read together by a judge: fewer take less memory."""


class GradingSection(Section):
    """A judge in the place of people: what it says is graded as theirs is, and called simulated.

    All in standard deviations of the judge's scores. tie: smaller gaps between neighbours are ties.
    bounds: gaps at which the grade rises from 1 to 2, ..., 4 to 5. noise: of what it perceives.
    """

    tie: NonNegative = 0.1
    bounds: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.25, 0.5, 1.0, 1.5)
    noise: NonNegative = 0.0

    @model_validator(mode="after")
    def _rising(self) -> GradingSection:
        if list(self.bounds) != sorted(self.bounds):
            raise ValueError("bounds have to rise, from the gap of grade 2 to that of grade 5")
        return self


class AnnotationSection(Section):
    """Who ranks the collected responses. grading: null leaves a judge's rankings without grades; a
    section that has none is written without the key, as for `SamplingSection.stop`."""

    source: Literal["file", "page", "judge", "simulated"] = "page"
    judge: str | None = None
    grading: Annotated[GradingSection | None, Field(exclude_if=lambda grading: grading is None)] = (
        None
    )

    @model_validator(mode="after")
    def _judge_named(self) -> AnnotationSection:
        if (self.source == "judge") != (self.judge is not None):
            raise ValueError(
                "annotation.judge names a reward model directory exactly when source is 'judge'"
            )
        if self.grading is not None and self.source != "judge":
            raise ValueError("annotation.grading grades what a judge says: set source to judge")
        return self
