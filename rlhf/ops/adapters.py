"""What is left of an adapter behind a joined product; see `rlhf.models.joined`.

On a GPU the second matrix's product is done where its sum is needed, by a kernel (Triton).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def add_adapter(both: Tensor, second: Tensor, scale: float, beside: Tensor | None = None) -> Tensor:
    """A product's first M columns, the adapter's share, and `beside`.

    Args:
        both: [N, M + r], the last r columns what the adapter's first matrix makes of the states.
        second: [M, r] its second one.
        scale: of the adapter.
        beside: [N, M] or None. On a GPU all are contiguous.

    Returns:
        [N, M]
    """
    rows, (made, rank) = len(both), second.shape
    if not both.is_cuda:
        found = both[:, :made] + both[:, made:] @ second.t() * scale
        return found if beside is None else beside + found
    from rlhf.ops import adapter_kernel

    out = both.new_empty(rows, made)
    grid, block = adapter_kernel.blocks(rows, made)
    kernel: Any = adapter_kernel.add[grid]
    kernel(
        both,
        second,
        both if beside is None else beside,
        out,
        rows,
        made,
        scale,
        BESIDE=beside is not None,
        RANK=rank,
        PADDED=adapter_kernel.padded(rank),
        ROWS=block,
        BLOCK=adapter_kernel.BLOCK,
    )
    return out


def gated_adapters(both: Tensor, seconds: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """SiLU of the first of two products times the second, each with its adapter's share.

    Args:
        both: [N, M + M + r_1 + r_2], both products, and what the first matrices make.
        seconds: [M, r_i] of each. On a GPU all are contiguous.
        scales: of each adapter.

    Returns:
        [N, M]
    """
    rows, (made, rank), other = len(both), seconds[0].shape, seconds[1].shape[1]
    if not both.is_cuda:
        gate, up, first, second = torch.split(both, [made, made, rank, other], dim=1)
        gate = gate + first @ seconds[0].t() * scales[0]
        up = up + second @ seconds[1].t() * scales[1]
        return functional.silu(gate) * up
    from rlhf.ops import adapter_kernel

    out = both.new_empty(rows, made)
    grid, block = adapter_kernel.blocks(rows, made)
    kernel: Any = adapter_kernel.gate[grid]
    kernel(
        both,
        *seconds,
        out,
        rows,
        made,
        *scales,
        RANK=rank,
        PADDED=adapter_kernel.padded(rank),
        OTHER_RANK=other,
        OTHER_PADDED=adapter_kernel.padded(other),
        ROWS=block,
        BLOCK=adapter_kernel.BLOCK,
    )
    return out
