"""Causal attention over sequences of unequal lengths that lie end to end in one row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Tensor,
    longest: int,
    scale: float | None = None,
    *,
    key_boundaries: Tensor | None = None,
    longest_key: int | None = None,
) -> Tensor:
    """Attention of every token to itself and to those before it in its own sequence.

    On a GPU this is PyTorch's FlashAttention, which reads the boundaries and never makes a mask;
    elsewhere one sequence is attended to after another.

    Args:
        query, key, value: [N, heads, D], of all sequences, one type.
        boundaries: [S + 1] int32, where sequences begin, and N at the end.
        longest: at least the number of tokens of the longest.
        scale: of the products of query and key; None: 1 / sqrt(D).
        key_boundaries, longest_key: of key and value [M, heads, D], where a sequence has more of
            them than of queries: the queries are then its last tokens. None: those of the queries.

    Returns:
        [N, heads, D].
    """
    if key_boundaries is None or longest_key is None:
        key_boundaries, longest_key = boundaries, longest
    if query.is_cuda:
        flash = torch.ops.aten._flash_attention_forward
        places = (boundaries, key_boundaries, longest, longest_key)
        found: Tensor = flash(query, key, value, *places, 0.0, True, False, scale=scale)[0]
        return found
    queries = torch.split(query, boundaries.diff().tolist())
    lengths = key_boundaries.diff().tolist()
    rows = zip(queries, torch.split(key, lengths), torch.split(value, lengths), strict=True)
    return torch.cat([_alone(*row, scale) for row in rows])


def _alone(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """query [L, heads, D], key, value: [S, heads, D], of one sequence, S at least L."""
    earlier = len(key) - len(query)
    seen = torch.ones(len(query), len(key), dtype=torch.bool, device=query.device).tril(earlier)
    query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    attend = functional.scaled_dot_product_attention
    return attend(query, key, value, attn_mask=seen, scale=scale).transpose(0, 1)


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `varlen_attention` is a fused kernel there: from Ampere on, in 16 bits."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    built = torch.backends.cuda.is_flash_attention_available()
    return built and torch.cuda.get_device_capability(device) >= (8, 0)
