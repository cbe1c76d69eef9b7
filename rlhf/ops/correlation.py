"""How two numbers of each item go together."""

from __future__ import annotations

import torch
from torch import Tensor


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation coefficient.

    Args:
        x: [B].
        y: [B].

    Returns:
        A scalar from -1 to 1, float64; 0 where one of them does not vary.
    """
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = x.norm() * y.norm()
    return torch.where(scale > 0, (x * y).sum() / scale, 0.0)
