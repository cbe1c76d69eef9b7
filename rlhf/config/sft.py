"""Config of stage 1, supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rlhf.config.base import (
    Fraction,
    NonNegative,
    OptimiserSection,
    Positive,
    Section,
    TuningSection,
    check_divides,
)


class CurationSection(Section):
    """Acceptance of crowd batches after an authoritative annotator's check of a sample."""

    sample: Positive = 20
    threshold: Fraction = 0.6
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class SFTSection(Section):
    """Stage 1: supervised fine-tuning.

    `max_source_length`, `max_target_length`: tokens of a question and of an answer, each cut off on
    the right, before `max_length` cuts the whole; null: no limit.
    `loss_chunk`: tokens whose logits exist at a time, for large vocabularies; null: all of them.
    """

    max_length: Positive = 2048
    max_source_length: Positive | None = None
    max_target_length: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] = 3
    max_steps: Positive | None = None
    batch_size: Positive = 64
    microbatch_size: Positive = 8
    packing: bool = True
    neftune_alpha: NonNegative | None = None
    max_z_weight: NonNegative | None = None
    loss_chunk: Positive | None = None
    eval_every: Positive = 50
    checkpoint_every: Positive = 200
    gradient_checkpointing: bool = False
    tuning: TuningSection = TuningSection()
    optimiser: OptimiserSection = OptimiserSection()
    curation: CurationSection | None = None

    @model_validator(mode="after")
    def _divides(self) -> SFTSection:
        return check_divides(self, "batch_size", "microbatch_size")
