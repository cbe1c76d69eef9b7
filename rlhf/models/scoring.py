"""Scores of a reward model over many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlhf.ops.padding import pad_right


def score_responses(
    model: Any, sequences: Sequence[Sequence[int]], pad_id: int, batch_size: int
) -> list[float]:
    """One score a sequence, in the order given.

    Args:
        model: a reward model, plain or adapted; left in the mode it is in.
        sequences: token ids of prompt and response.
        pad_id: fills up a batch.
        batch_size: sequences at once; those of like length go together, so little is padding.
    """
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]), reverse=True)
    scores = [0.0] * len(sequences)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = pad_right([sequences[index] for index in chosen], pad_id)
            logits = model(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                use_cache=False,
            ).logits
            for index, score in zip(chosen, logits.squeeze(-1).float().tolist(), strict=True):
                scores[index] = score
    model.train(was_training)
    return scores
