"""Config of stage 2, the reward model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config.base import (
    Length,
    NonNegative,
    OptimiserSection,
    Positive,
    Section,
    TuningSection,
    check_divides,
)


class RMDataSection(Section):
    """What the reward model may learn from.

    known_checkpoints: folders of released checkpoints, or the hashes of such, as recorded in
    responses: those of theirs count as proven, as those of this run's own models do.
    held_out: files of ranking records to test on, in place of those that were collected.
    """

    off_family: Literal["refuse", "drop", "allow"] = "refuse"
    known_checkpoints: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    max_length: Length = 2048
    """Tokens of prompt and response together. Responses that do not fit are dropped and counted."""


class RMSection(Section):
    """Stage 2: the reward model. Batch sizes count prompts, each with its K responses.

    loss: kway, the mean over a prompt's pairs, then over prompts; pairwise, the mean over all pairs
    of a batch; plackett-luce, the likelihood of whole rankings. label_smoothing: the share of pairs
    taken to be the wrong way round. centering: weight of the penalty on a pair's summed score.
    share_prompt: encode each prompt once for its K responses, which changes no score. compile: fuse
    what lies between the matrix products (torch.compile), which pays on a GPU after a minute.
    """

    model: str | None = None
    epochs: Annotated[float, Field(gt=0)] = 1
    max_steps: Positive | None = None
    batch_size: Positive = 64
    microbatch_size: Positive = 4
    loss: Literal["kway", "pairwise", "plackett-luce"] = "kway"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    centering: NonNegative = 0.0
    grade_margins: tuple[float, float, float, float, float] | None = None
    eval_every: Positive = 50
    """Optimiser steps from one test on the held-out rankings to the next."""
    checkpoint_every: Positive = 50
    """Optimiser steps from one checkpoint to the next."""
    gradient_checkpointing: bool = False
    share_prompt: bool = True
    compile: bool = False
    tuning: TuningSection = TuningSection()
    optimiser: OptimiserSection = OptimiserSection(learning_rate=1e-5)
    data: RMDataSection = RMDataSection()

    @property
    def shares_prompts(self) -> bool:
        """Whether training does: gradient checkpointing keeps no keys and values to share."""
        return self.share_prompt and not self.gradient_checkpointing

    @model_validator(mode="after")
    def _divides(self) -> RMSection:
        return check_divides(self, "batch_size", "microbatch_size")

    @model_validator(mode="after")
    def _smooths_pairs(self) -> RMSection:
        if self.label_smoothing and self.loss == "plackett-luce":
            raise ValueError(
                "label_smoothing turns pairs round, and loss: plackett-luce has none; "
                "choose loss: kway or pairwise, or label_smoothing: 0"
            )
        return self
