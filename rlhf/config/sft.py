"""Config of stage 1, supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config.base import (
    Fraction,
    Length,
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
    """Demonstrations of each batch that are audited."""
    threshold: Fraction = 0.6
    """Least lower bound of the acceptance rate with which a batch is accepted."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the two-sided Wilson interval whose lower bound that is."""


class SFTSection(Section):
    """Stage 1: supervised fine-tuning.

    `max_source_length`, `max_target_length`: tokens of a question and of an answer, each cut off on
    the right, before `max_length` cuts the whole; null: no limit.
    `neftune_alpha`: noise on the embeddings in training, scaled by the length of each conversation,
    packed or not (rlhf.training.neftune); null: none.
    `loss_chunk`: tokens whose logits exist at a time, for large vocabularies; null: all of them.
    `packed_attention`: how conversations of a packed row are kept apart. varlen: by a kernel that
    knows where each begins, where the GPU and the model have one (from Ampere on, RoPE, 16 bits);
    masked: by a mask, always.
    `gradient_checkpointing`: true computes every block again in the backward pass; a number, only
    that many of them, for the memory that is left.
    `compile`: fuse what lies between the matrix products (torch.compile), after a minute.
    `activation_budget`: with compile, the share that a block keeps for the backward pass of what it
    would; the rest is computed again there, what is cheapest first. 0.7 costs next to nothing.
    `split_weights`: with full tuning in bfloat16 and adamw-8bit, weights that learn are float32
    ones in two halves: the model computes with the upper 16 bits, the optimiser keeps the lower.
    Gradients are in bfloat16, also where microbatches add up.
    """

    max_length: Length = 2048
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
    """Optimiser steps from one measurement of the held-out loss to the next."""
    checkpoint_every: Positive = 200
    """Optimiser steps from one checkpoint to the next."""
    gradient_checkpointing: bool | Positive = False
    packed_attention: Literal["varlen", "masked"] = "varlen"
    compile: bool = False
    activation_budget: Annotated[float, Field(gt=0, le=1)] = 1.0
    split_weights: bool = False
    tuning: TuningSection = TuningSection()
    optimiser: OptimiserSection = OptimiserSection()
    curation: CurationSection | None = None

    @model_validator(mode="after")
    def _divides(self) -> SFTSection:
        return check_divides(self, "batch_size", "microbatch_size")

    @model_validator(mode="after")
    def _budgets_what_is_compiled(self) -> SFTSection:
        if self.activation_budget < 1 and not self.compile:
            raise ValueError(
                "activation_budget is for compiled blocks; set compile: true, "
                "or activation_budget: 1"
            )
        return self

    @model_validator(mode="after")
    def _splits_what_learns(self) -> SFTSection:
        full = self.tuning.method == "full" and self.optimiser.kind == "adamw-8bit"
        if self.split_weights and not full:
            raise ValueError(
                "split_weights is for tuning.method: full with optimiser.kind: adamw-8bit; "
                "set both, or split_weights: false"
            )
        return self
