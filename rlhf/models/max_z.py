"""The Max-z loss, which keeps logits from drifting upwards."""

from __future__ import annotations

import torch


def max_z(logits: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Max-z (Baichuan 2 report, section 2.5): the mean squared largest logit.

    logits: [B, T, V]; attention_mask: [B, T]. Positions that predict nothing do not count: the last
    one, and those on padding.
    """
    largest = logits[:, :-1].amax(-1).float().square()
    counted = predicting(largest, attention_mask)
    return (largest * counted).sum() / counted.sum().clamp(min=1)


def predicting(places: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """places: [B, T - 1], attention_mask: [B, T] -> [B, T - 1], True where a real token predicts
    a real one."""
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.ones_like(places, dtype=torch.bool)
    return attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()


def max_z_of_microbatch(
    logits: torch.Tensor,
    labels: torch.Tensor,
    attention_mask: torch.Tensor | None,
    items: torch.Tensor | int | None,
) -> torch.Tensor:
    """`max_z` times this microbatch's part of an accumulated batch of `items` labelled tokens.

    labels: [B, T], -100 where there is no loss. items: None when nothing is accumulated.
    """
    share = 1.0 if items is None else (labels[:, 1:] != -100).sum() / items
    return share * max_z(logits, attention_mask)
