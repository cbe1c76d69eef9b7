"""Scores of a reward model over rankings, and how well the two agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.data.collate import RankingBatch, collate_rankings
from rlhf.data.datasets import RankingDataset
from rlhf.data.records import pair_grades
from rlhf.models.scoring import scoring, separate_scores, shared_prompt_scores
from rlhf.ops.losses import ranking_loss
from rlhf.runtime.distributed import in_order, own_turns


def ranking_scores(model: Any, batch: RankingBatch, *, share_prompts: bool) -> Tensor:
    """[N, K] float32 with gradients, 0 where a row only fills up K.

    share_prompts: encode each prompt once for its K responses, which gives the same scores.
    """
    if share_prompts:
        return shared_prompt_scores(
            model, batch.input_ids, batch.attention_mask, batch.prompt_lengths
        )
    return separate_scores(model, batch.input_ids, batch.attention_mask)


def score_rankings(
    model: Any, data: RankingDataset, pad_id: int, batch_size: int, *, share_prompts: bool = True
) -> list[list[float]]:
    """The scores of every item's responses, as the items hold them; each process does its share.

    Args:
        model: a reward model, plain or adapted; left in the mode it is in.
        batch_size: responses at once, whole rankings always; those of like length go together.
        share_prompts: as in `ranking_scores`.
    """
    items = data.items
    order = sorted(range(len(items)), key=lambda i: max(map(len, items[i].input_ids)), reverse=True)
    at_once = max(1, batch_size // max((len(item.ranks) for item in items), default=1))
    parts = [order[start : start + at_once] for start in range(0, len(order), at_once)]
    found = {}
    with scoring(model):
        for place, part in own_turns(parts):
            batch = collate_rankings([items[index] for index in part], pad_id).to(model.device)
            found[place] = ranking_scores(model, batch, share_prompts=share_prompts).tolist()
    scores: list[list[float]] = [[] for _ in items]
    for part, rows in zip(parts, in_order(found), strict=True):
        for index, row in zip(part, rows, strict=True):
            scores[index] = row[: len(items[index].ranks)]
    return scores


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
