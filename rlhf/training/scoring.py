"""Scores of a reward model over rankings, and how well the two agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlhf.data.datasets import RankingDataset
from rlhf.data.records import pair_grades
from rlhf.models.scoring import score_responses
from rlhf.ops.losses import ranking_loss


def score_rankings(
    model: Any, data: RankingDataset, pad_id: int, batch_size: int
) -> list[list[float]]:
    """The scores of every item's responses, as the items hold them."""
    flat = iter(
        score_responses(
            model, [ids for item in data.items for ids in item.input_ids], pad_id, batch_size
        )
    )
    return [[next(flat) for _ in item.input_ids] for item in data.items]


def count_pairs(data: RankingDataset) -> int:
    """Pairs of responses to one prompt that do not tie."""
    return sum(len(pair_grades(item.ranks, ())) for item in data.items)


def pair_accuracy(scores: Sequence[Sequence[float]], data: RankingDataset) -> float:
    """Share of all pairs, over all prompts, in which the better response has the higher score."""
    right = sum(
        row[pair.chosen] > row[pair.rejected]
        for row, item in zip(scores, data.items, strict=True)
        for pair in pair_grades(item.ranks, ())
    )
    return right / count_pairs(data)


def pair_loss(scores: Sequence[Sequence[float]], data: RankingDataset) -> float:
    """The ranking loss without margins, so that runs with and without them compare."""
    losses = [
        float(ranking_loss(torch.tensor([row]), torch.tensor([item.ranks])))
        for row, item in zip(scores, data.items, strict=True)
    ]
    return sum(losses) / len(losses)
