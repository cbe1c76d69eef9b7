"""Statistics over the entries that a mask keeps; what it leaves out may be anything, even NaN."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of the kept entries.

    Args:
        x: any shape.
        mask: boolean, of x's shape; True keeps.

    Returns:
        A scalar, float32 at least; 0 when nothing is kept.
    """
    return _kept(x, mask).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of the kept entries, 0 when nothing is kept; shapes as in `masked_sum`."""
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale to zero mean and unit (population) variance over the kept entries.

    Args:
        x: any shape.
        mask: boolean, of x's shape; True keeps.
        eps: added to the variance, so that equal entries become 0 rather than NaN.

    Returns:
        x's shape; 0 where the mask does not keep.
    """
    centred = torch.where(mask, x.float() - masked_mean(x, mask), 0.0)
    return centred * torch.rsqrt(masked_mean(centred.square(), mask) + eps)


def last_index(mask: Tensor) -> Tensor:
    """Index of the last kept entry of every row.

    Args:
        mask: boolean [B, R].

    Returns:
        [B] int64; -1 for a row that keeps nothing.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, columns, -1).amax(dim=1)


def positions(mask: Tensor) -> Tensor:
    """Position [B, T] of every token in its row: 0 at the first that `mask` [B, T] keeps.

    Padding before it has 0 too, padding after the last one that one's position.
    """
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def is_last(mask: Tensor) -> Tensor:
    """Boolean [B, R], True at the last kept entry of every row of `mask` [B, R]."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    return mask & (columns == last_index(mask)[:, None])


def _kept(x: Tensor, mask: Tensor) -> Tensor:
    # `where` and not a product: 0 * NaN is NaN, in the value and in the gradient.
    x = x if x.dtype == torch.float64 else x.float()
    return torch.where(mask, x, 0.0)
