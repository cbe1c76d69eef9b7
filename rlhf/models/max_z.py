"""The Max-z loss, which keeps logits from drifting upwards."""

from __future__ import annotations

import torch


def max_z(
    logits: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Max-z (Baichuan 2 report, section 2.5): the mean squared largest logit.

    logits: [B, T, V]; the others as in `predicting`. Positions that predict nothing do not count:
    the last one of a conversation, and those on padding.
    """
    largest = logits[:, :-1].amax(-1).float().square()
    counted = predicting(largest, attention_mask, position_ids)
    return (largest * counted).sum() / counted.sum().clamp(min=1)


def predicting(
    places: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """[B, T - 1], True where a real token predicts a real one of the same conversation.

    places: [B, T - 1]; attention_mask, position_ids: [B, T]. Packed rows have no mask; every
    conversation of theirs begins at position 0, and all padding is there.
    """
    if attention_mask is not None and attention_mask.dim() == 2:
        return attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    if position_ids is not None:
        return (position_ids[:, 1:] != 0).expand_as(places)
    return torch.ones_like(places, dtype=torch.bool)


def max_z_of_microbatch(
    logits: torch.Tensor,
    labels: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    items: torch.Tensor | int | None,
) -> torch.Tensor:
    """`max_z` times this microbatch's part of an accumulated batch of `items` labelled tokens.

    labels: [B, T], -100 where there is no loss. items: None when nothing is accumulated.
    """
    share = 1.0 if items is None else (labels[:, 1:] != -100).sum() / items
    return share * max_z(logits, attention_mask, position_ids)
