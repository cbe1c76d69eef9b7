"""Rows of different lengths to one tensor, and the mask of what is real in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

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


@dataclass(frozen=True)
class LeftAligned:
    """Rows moved to the left, each one's first real token to the first column.

    All padding then comes after what is real, where causal attention does not see it: no mask is
    needed. Columns that no row fills are gone.

    start: [B], the column that each row's first real token had. columns: how many there were.
    width: how many are left, 1 at least. furthest: the largest `start`.
    """

    start: Tensor
    columns: int
    width: int
    furthest: int

    @classmethod
    def of(cls, mask: Tensor, multiple: int = 1) -> Self | None:
        """As wide as the longest row, rounded up to a `multiple` or to all the columns there were.

        mask: [B, T], 1 or True on real tokens; None where one is missing between two others.
        Waits for the device, once.
        """
        mask = mask.bool()
        start, lengths = mask.long().argmax(dim=1), mask.sum(dim=1)  # 0 where nothing is real
        holes = last_index(mask) - start + 1 > lengths
        found: list[int] = torch.stack([holes.sum(), lengths.max(), start.max()]).tolist()
        if found[0]:
            return None
        width = -(-max(found[1], 1) // multiple) * multiple
        return cls(start, mask.shape[1], min(width, mask.shape[1]), found[2])

    @property
    def moves(self) -> bool:
        return self.furthest > 0 or self.width < self.columns

    def move(self, rows: Tensor) -> Tensor:
        """rows: [B or 1, T, ...] -> [B, width, ...]; behind a row comes what is real in none."""
        if not self.moves:
            return rows
        columns = self.start[:, None] + torch.arange(self.width, device=rows.device)
        return _gather(rows, columns.clamp(max=self.columns - 1))

    def kept(self, keep: int) -> int:
        """How many last columns, moved, hold what was in the last `keep` (0: all, and 0 is all)."""
        first = self.columns - keep - self.furthest
        return 0 if not keep or first <= 0 else max(self.width - first, 1)

    def back(self, moved: Tensor, keep: int = 0) -> Tensor:
        """The last `keep` columns as they were (0 or more than there are: all), from all that are
        moved or from `kept`.

        moved: [B, width or `kept`, ...] -> [B, keep or T, ...]; 0 before a row's first real token,
        and behind its last what is in one of its columns.
        """
        if not self.moves:
            return moved[:, -keep:]
        first = max(self.columns - (keep or self.columns), 0)
        columns = torch.arange(first, self.columns, device=moved.device)
        columns = columns - self.start.to(moved.device)[:, None]
        real = _gather(moved, columns.clamp(0, self.width - 1) - (self.width - moved.shape[1]))
        before = (columns < 0).view(*columns.shape, *[1] * (moved.dim() - 2))
        # Not a neighbour's state: one who learns there would be shown what is to be predicted.
        return real.masked_fill(before, 0)


def _gather(rows: Tensor, columns: Tensor) -> Tensor:
    """rows: [B or 1, T, ...], columns: [B, K] -> [B, K, ...]."""
    rows = rows.expand(len(columns), *rows.shape[1:])
    columns = columns.view(*columns.shape, *[1] * (rows.dim() - 2))
    return rows.gather(1, columns.expand(-1, -1, *rows.shape[2:]))
