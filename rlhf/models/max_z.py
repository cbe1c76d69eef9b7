"""The Max-z loss, which keeps logits from drifting upwards."""

from __future__ import annotations

import torch


def max_z(logits: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Max-z (Baichuan 2 report, section 2.5): the mean squared largest logit.

    logits: [B, T, V]; attention_mask: [B, T]. Positions that predict nothing do not count: the last
    one, and those on padding.
    """
    largest = logits[:, :-1].amax(-1).float().square()
    if attention_mask is None or attention_mask.dim() != 2:
        return largest.mean()
    real = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    return (largest * real).sum() / real.sum().clamp(min=1)


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
