"""The reward model's objective, as its config section chooses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.config.schema import RMSection
from rlhf.ops.losses import ranking_loss
from rlhf.ops.ranking import centering_penalty, comparable, plackett_luce_loss, separate_pairs


@dataclass(frozen=True)
class RankingObjective:
    """A loss over ranked responses; a mean over `items`, so that microbatches can be weighed."""

    section: RMSection

    def items(self, ranks: Tensor) -> Tensor:
        """How many the mean is over: pairs, or prompts that have one. ranks: [N, K] -> a scalar."""
        pairs = comparable(ranks)
        return (pairs if self.section.loss == "pairwise" else pairs.any(dim=(1, 2))).sum()

    def loss(self, scores: Tensor, ranks: Tensor, grades: Tensor) -> Tensor:
        """scores, ranks: [N, K]; grades: [N, K, K], 0 for none. Returns a scalar."""
        section = self.section
        margins = _margins(grades, section.grade_margins)
        if section.loss == "pairwise":
            scores, ranks, margins = separate_pairs(scores, ranks, margins)
        if section.loss == "plackett-luce":
            loss = plackett_luce_loss(scores, ranks, margins)
        else:
            loss = ranking_loss(scores, ranks, margins, section.label_smoothing)
        if section.centering:
            loss = loss + section.centering * centering_penalty(scores, ranks)
        return loss


def _margins(grades: Tensor, by_grade: Sequence[float] | None) -> Tensor | None:
    """grades: [N, K, K], 0 for none -> the margin asked of each pair, 0 for an ungraded one."""
    if by_grade is None:
        return None
    return torch.tensor([0.0, *by_grade], device=grades.device)[grades]
