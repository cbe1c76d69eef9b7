"""Rows of different lengths to one tensor, and the mask of what is real in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.ops.masking import last_index


def pad_right(
    rows: Sequence[Sequence[float]],
    fill: float,
    *,
    dtype: torch.dtype = torch.long,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Put padding after every row.

    Args:
        rows: B of them, one at least; token ids, unless `dtype` says otherwise. A row may be empty.
        fill: what stands in the padding.
        dtype: of the padded rows.
        device: where both tensors go; None is the CPU.

    Returns:
        The rows [B, T], T the longest one's length, and the boolean mask [B, T] that keeps them.
    """
    lengths = torch.tensor([len(row) for row in rows], device=device)
    width = int(lengths.max())
    padded = [[*row, *[fill] * (width - len(row))] for row in rows]
    mask = torch.arange(width, device=device) < lengths[:, None]
    return torch.tensor(padded, dtype=dtype, device=device), mask


def pad_left(
    rows: Sequence[Sequence[int]], fill: int, *, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Put padding before every row of token ids, so that all end at the same column.

    Arguments and results as in `pad_right`.
    """
    padded, mask = pad_right([row[::-1] for row in rows], fill, device=device)
    return padded.flip(1), mask.flip(1)


def to_the_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move every row's tokens to the right, so that all rows end at the last column.

    Args:
        ids: [B, T], padded on either side or on both.
        mask: [B, T], 1 or True on real tokens, of which every row has one at least.

    Returns:
        ids and mask [B, T]; what was on the right of a row is on its left.
    """
    column = torch.arange(mask.shape[1], device=mask.device)
    moved = (column + last_index(mask.bool())[:, None] + 1) % mask.shape[1]
    return ids.gather(1, moved), mask.gather(1, moved)
