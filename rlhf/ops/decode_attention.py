"""Attention of one new token a sequence to that sequence's own cache."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    slopes: Tensor | None = None,
) -> Tensor:
    """Write each sequence's new key and value behind those it has, and attend to all of them.

    Only the filled columns are read where a kernel can (CUDA, with Triton): sequences of unlike
    lengths cost what they hold, and one captured graph serves all lengths.

    Args:
        query, key, value: [S, heads, D] of the new tokens, rotated where the model rotates.
        keys, values: [S, heads, capacity, D], contiguous; written to in place.
        lengths: [S] int64, columns filled so far, below the capacity: where the new token goes.
        slopes: [heads] float32, ALiBi's, or None.

    Returns:
        [S, heads, D] of query's type; softmax in float32.
    """
    if query.is_cuda:
        from rlhf.ops.decode_kernel import attend

        return attend(query, key, value, keys, values, lengths, slopes)
    rows = torch.arange(len(query), device=query.device)
    keys[rows, :, lengths] = key
    values[rows, :, lengths] = value
    span = int(lengths.max()) + 1
    distance = torch.arange(span, device=query.device) - lengths[:, None]  # [S, span]
    bias = torch.zeros(len(query), 1, 1, span, device=query.device)
    if slopes is not None:
        bias = slopes[:, None, None] * distance[:, None, None]
    bias = bias.masked_fill(distance[:, None, None] > 0, -torch.inf).to(query.dtype)
    attended: Tensor = functional.scaled_dot_product_attention(
        query[:, :, None], keys[:, :, :span], values[:, :, :span], attn_mask=bias
    )
    return attended[:, :, 0]
