"""Config of DPO, the stage that a run may have between collecting and PPO."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rlhf.config.base import OptimiserSection, Positive, Section, TuningSection, check_divides


class DPOSection(Section):
    """DPO on the pairs that the reward model learns from: `rm.data` says which those are.

    model: what is trained and, frozen, the reference; null is the main SFT model. beta: weight of
    the reference. Batch sizes count pairs. Dropout is off, as the reference has none.
    """

    model: str | None = None
    beta: Annotated[float, Field(gt=0)] = 0.1
    epochs: Annotated[float, Field(gt=0)] = 1
    max_steps: Positive | None = None
    batch_size: Positive = 64
    microbatch_size: Positive = 4
    eval_every: Positive = 50
    """Optimiser steps from one test on the held-out pairs to the next."""
    checkpoint_every: Positive = 200
    """Optimiser steps from one checkpoint to the next."""
    gradient_checkpointing: bool = False
    tuning: TuningSection = TuningSection()
    optimiser: OptimiserSection = OptimiserSection(learning_rate=5e-7)

    @model_validator(mode="after")
    def _divides(self) -> DPOSection:
        return check_divides(self, "batch_size", "microbatch_size")
