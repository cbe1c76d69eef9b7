"""`decode_attention` as one Triton kernel: a program a sequence and head, over filled columns."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Columns read at once, warps a program and loads in flight: the fastest of those tried on an H100.
BLOCK, WARPS, STAGES = 16, 1, 2


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    slopes: Tensor | None,
) -> Tensor:
    """Arguments and result as in `rlhf.ops.decode_attention`."""
    sequences, heads, width = query.shape
    assert keys.is_contiguous() and values.is_contiguous()
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    kernel: Any = _attend[(sequences, heads)]
    kernel(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        keys,
        values,
        lengths,
        lengths if slopes is None else slopes,
        output,
        width**-0.5,
        keys.shape[2],
        ALIBI=slopes is not None,
        WIDTH=width,
        PADDED=triton.next_power_of_2(width),
        BLOCK=BLOCK,
        STAGES=STAGES,
        num_warps=WARPS,
    )
    return output


# Triton reads annotations as types of its own, so only its constants have one.
@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    query_at,
    key_at,
    value_at,
    keys_at,
    values_at,
    lengths_at,
    slopes_at,
    output_at,
    scale,
    capacity,
    ALIBI: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    head = tl.program_id(1)
    row = (tl.program_id(0) * tl.num_programs(1) + head).to(tl.int64)
    length = tl.load(lengths_at + tl.program_id(0))
    lane = tl.arange(0, PADDED)
    real = lane < WIDTH
    one = row * WIDTH + lane
    query = tl.load(query_at + one, mask=real, other=0.0).to(tl.float32) * scale
    key = tl.load(key_at + one, mask=real, other=0.0)
    value = tl.load(value_at + one, mask=real, other=0.0)
    cache = row * capacity * WIDTH + lane
    tl.store(keys_at + cache + length * WIDTH, key, mask=real)
    tl.store(values_at + cache + length * WIDTH, value, mask=real)
    # The new token's own column comes first, from registers: what was just stored is not read.
    top = tl.sum(query * key.to(tl.float32), axis=0)
    total = 1.0
    sum_values = value.to(tl.float32)
    slope = tl.load(slopes_at + head) if ALIBI else 0.0
    for start in tl.range(0, length, BLOCK, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK)
        filled = column < length
        place = cache[None, :] + column[:, None] * WIDTH
        both = filled[:, None] & real[None, :]
        block = tl.load(keys_at + place, mask=both, other=0.0).to(tl.float32)
        logits = tl.sum(block * query[None, :], axis=1)
        if ALIBI:
            logits += slope * (column - length).to(tl.float32)
        logits = tl.where(filled, logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=0))
        shrink = tl.exp(top - higher)
        weights = tl.exp(logits - higher)
        block = tl.load(values_at + place, mask=both, other=0.0).to(tl.float32)
        total = total * shrink + tl.sum(weights, axis=0)
        sum_values = sum_values * shrink + tl.sum(weights[:, None] * block, axis=0)
        top = higher
    tl.store(output_at + one, (sum_values / total).to(output_at.dtype.element_ty), mask=real)
