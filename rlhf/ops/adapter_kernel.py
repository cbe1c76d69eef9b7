"""What is left of an adapter behind a joined product, as Triton kernels: `rlhf.ops.adapters`.

The second matrix's product is small, and done where its sum is needed: with what is added to it, or
with the gate. A product and a sum of their own take four times as long for a few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

# Columns and at most so many rows of a program.
BLOCK, ROWS = 64, 32
# Of a dimension, below which there is no product in registers.
LEAST = 16


def add_adapter(both: Tensor, second: Tensor, scale: float, beside: Tensor | None) -> Tensor:
    """[N, M]: a product's first M columns, the adapter's share, and `beside`.

    Args:
        both: [N, M + r] contiguous, the last r columns what the first matrix makes of the states.
        second: [M, r] contiguous.
        scale: of the adapter.
        beside: [N, M] contiguous, or None.
    """
    rows, made = len(both), len(second)
    out = both.new_empty(rows, made)
    kernel: Any = _add[_grid(rows, made)]
    kernel(
        both,
        second,
        both if beside is None else beside,
        out,
        rows,
        made,
        scale,
        BESIDE=beside is not None,
        RANK=second.shape[1],
        PADDED=_padded(second.shape[1]),
        ROWS=min(ROWS, _padded(rows)),
        BLOCK=BLOCK,
    )
    return out


def gated_adapters(both: Tensor, seconds: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """[N, M]: SiLU of the first product times the second, each with its adapter's share.

    both: [N, M + M + r_1 + r_2] contiguous; seconds: [M, r_i] contiguous.
    """
    rows, made = len(both), len(seconds[0])
    out = both.new_empty(rows, made)
    kernel: Any = _gate[_grid(rows, made)]
    kernel(
        both,
        seconds[0],
        seconds[1],
        out,
        rows,
        made,
        scales[0],
        scales[1],
        RANK=seconds[0].shape[1],
        PADDED=_padded(seconds[0].shape[1]),
        OTHER_RANK=seconds[1].shape[1],
        OTHER_PADDED=_padded(seconds[1].shape[1]),
        ROWS=min(ROWS, _padded(rows)),
        BLOCK=BLOCK,
    )
    return out


def _grid(rows: int, made: int) -> tuple[int, int]:
    return -(-made // BLOCK), -(-rows // min(ROWS, _padded(rows)))


def _padded(size: int) -> int:
    return max(LEAST, 1 << (size - 1).bit_length())


# Triton reads annotations as types of its own, so only its constants have one.
@triton.jit  # type: ignore[untyped-decorator]
def _share(  # type: ignore[no-untyped-def]
    both_at,
    second_at,
    row,
    column,
    rows,
    made,
    stride,
    first,
    RANK: tl.constexpr,
    PADDED: tl.constexpr,
):
    """[ROWS, BLOCK] float32, not scaled. first: the column of `both` where the adapter's begin."""
    rank = tl.arange(0, PADDED)
    low = tl.load(
        both_at + row[:, None] * stride + first + rank[None, :],
        mask=(row < rows)[:, None] & (rank < RANK)[None, :],
        other=0.0,
    )
    second = tl.load(
        second_at + column[None, :] * RANK + rank[:, None],
        mask=(column < made)[None, :] & (rank < RANK)[:, None],
        other=0.0,
    )
    return tl.dot(low, second, input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def _add(  # type: ignore[no-untyped-def]
    both_at,
    second_at,
    beside_at,
    out_at,
    rows,
    made,
    scale,
    BESIDE: tl.constexpr,
    RANK: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    stride = made + RANK
    real = (row < rows)[:, None] & (column < made)[None, :]
    share = _share(both_at, second_at, row, column, rows, made, stride, made, RANK, PADDED)
    found = tl.load(both_at + row[:, None] * stride + column[None, :], mask=real, other=0.0)
    found = found.to(tl.float32) + share * scale
    place = row[:, None] * made + column[None, :]
    if BESIDE:
        found += tl.load(beside_at + place, mask=real, other=0.0).to(tl.float32)
    tl.store(out_at + place, found.to(out_at.dtype.element_ty), mask=real)


@triton.jit  # type: ignore[untyped-decorator]
def _gate(  # type: ignore[no-untyped-def]
    both_at,
    second_at,
    other_at,
    out_at,
    rows,
    made,
    scale,
    other_scale,
    RANK: tl.constexpr,
    PADDED: tl.constexpr,
    OTHER_RANK: tl.constexpr,
    OTHER_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    stride = 2 * made + RANK + OTHER_RANK
    real = (row < rows)[:, None] & (column < made)[None, :]
    place = both_at + row[:, None] * stride + column[None, :]
    first = 2 * made
    gate = tl.load(place, mask=real, other=0.0).to(tl.float32)
    gate += scale * _share(both_at, second_at, row, column, rows, made, stride, first, RANK, PADDED)
    first += RANK
    up = tl.load(place + made, mask=real, other=0.0).to(tl.float32)
    up += other_scale * _share(
        both_at, other_at, row, column, rows, made, stride, first, OTHER_RANK, OTHER_PADDED
    )
    found = gate * tl.sigmoid(gate) * up
    out = out_at + row[:, None] * made + column[None, :]
    tl.store(out, found.to(out_at.dtype.element_ty), mask=real)
