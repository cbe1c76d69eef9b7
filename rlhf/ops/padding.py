"""Rows of different lengths to one tensor, and the mask of what is real in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
