"""Config of stage 2, the reward model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config.base import OptimiserSection, Positive, Section, TuningSection, check_divides


class RMDataSection(Section):
    """What the reward model may learn from."""

    off_family: Literal["refuse", "drop", "allow"] = "refuse"
    max_length: Positive = 2048


class RMSection(Section):
    """Stage 2: the reward model. Batch sizes count prompts, each with its K responses."""

    model: str | None = None
    epochs: Annotated[float, Field(gt=0)] = 1
    max_steps: Positive | None = None
    batch_size: Positive = 64
    microbatch_size: Positive = 4
    grade_margins: tuple[float, float, float, float, float] | None = None
    eval_every: Positive = 50
    checkpoint_every: Positive = 200
    gradient_checkpointing: bool = False
    tuning: TuningSection = TuningSection()
    optimiser: OptimiserSection = OptimiserSection(learning_rate=1e-5)
    data: RMDataSection = RMDataSection()

    @model_validator(mode="after")
    def _divides(self) -> RMSection:
        return check_divides(self, "batch_size", "microbatch_size")
