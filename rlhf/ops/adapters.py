"""What is left of an adapter behind a joined product; see `rlhf.models.joined`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def add_adapter(both: Tensor, second: Tensor, scale: float, beside: Tensor | None = None) -> Tensor:
    """A product's first M columns, the adapter's share, and `beside`.

    Args:
        both: [N, M + r], the last r columns what the adapter's first matrix makes of the states.
        second: [M, r] its second one.
        scale: of the adapter.
        beside: [N, M] or None.

    Returns:
        [N, M]
    """
    if both.is_cuda:
        from rlhf.ops import adapter_kernel

        return adapter_kernel.add_adapter(both, second, scale, beside)
    found = both[:, : len(second)] + both[:, len(second) :] @ second.t() * scale
    return found if beside is None else beside + found


def gated_adapters(both: Tensor, seconds: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """SiLU of the first of two products times the second, each with its adapter's share.

    Args:
        both: [N, M + M + r_1 + r_2], both products, and what the first matrices make.
        seconds: [M, r_i] of each.
        scales: of each adapter.

    Returns:
        [N, M]
    """
    if both.is_cuda:
        from rlhf.ops import adapter_kernel

        return adapter_kernel.gated_adapters(both, seconds, scales)
    made, (rank, _) = len(seconds[0]), (second.shape[1] for second in seconds)
    gate, up = both[:, :made], both[:, made : 2 * made]
    lows = both[:, 2 * made : 2 * made + rank], both[:, 2 * made + rank :]
    gate = gate + lows[0] @ seconds[0].t() * scales[0]
    up = up + lows[1] @ seconds[1].t() * scales[1]
    return functional.silu(gate) * up
