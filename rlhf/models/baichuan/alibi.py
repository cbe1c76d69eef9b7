"""ALiBi (Press et al., 2021): a linear penalty on distance instead of position embeddings."""

from __future__ import annotations

import math

import torch


def alibi_slopes(heads: int, device: torch.device | None = None) -> torch.Tensor:
    """[heads] float32. With n the largest power of two in `heads`: 2^(-8(i+1)/n) for the first n,
    then 2^(-4(2k+1)/n), the odd terms of the series of twice as many."""
    n = 2 ** int(math.log2(heads))
    index = torch.arange(heads, dtype=torch.float32, device=device)
    exponent = torch.where(index < n, 8 * (index + 1) / n, 4 * (2 * (index - n) + 1) / n)
    return torch.exp2(-exponent)


def alibi_mask(
    mask: torch.Tensor | None,
    *,
    heads: int,
    queries: torch.Tensor,
    keys: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The bias slope * (key - query) where attention is allowed, the lowest number elsewhere.

    mask: [B, 1, Q, K], boolean (True attends) or additive, or None for plain causal attention
    queries, keys: [Q] and [K], places in the row

    The distance inside a sequence is the same whether it is padded on the left, continued from a
    cache or packed after others, so no position ids are needed. The official code's slope * key
    differs by a constant a row, which softmax ignores, but in bfloat16 it is as coarse as the row
    is long; the relative form is finest where attention is strongest.

    Returns [B or 1, heads, Q, K] in `dtype`, finite also on rows that attend to nothing.
    """
    distance = keys[None, :] - queries[:, None]
    bias = (alibi_slopes(heads, keys.device)[:, None, None] * distance).to(dtype)
    lowest = torch.finfo(dtype).min
    if mask is None:
        mask = distance <= 0
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, lowest)
    return (bias + mask).clamp(min=lowest).to(dtype)
