"""What is left of an adapter behind a joined product, as Triton kernels: `rlhf.ops.adapters`.

The second matrix's product is small, and done where its sum is needed: with what is added to it, or
with the gate. A product and a sum of their own take four times as long for a few rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Columns and at most so many rows of a program.
BLOCK, ROWS = 64, 32
# Of a dimension, below which there is no product in registers.
LEAST = 16


def blocks(rows: int, made: int) -> tuple[tuple[int, int], int]:
    """Programs by columns and by rows, and the rows of each."""
    each = min(ROWS, padded(rows))
    return (-(-made // BLOCK), -(-rows // each)), each


def padded(size: int) -> int:
    """What a program takes in a size's place: a power of two."""
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
def add(  # type: ignore[no-untyped-def]
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
def gate(  # type: ignore[no-untyped-def]
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
