"""An adapter's first matrix as further rows of the weight that it stands beside: one product gives
what both make of a state, and what is left of the adapter is fused with what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import linear

from rlhf.ops.adapters import add_adapter, gated_adapters

MOST = 64
"""Rank up to which there is something to be gained."""


class Joined(NamedTuple):
    """Layers that read the same states, with their adapters.

    weight: [M_1 + M_2 + ... + r_1 + r_2 + ..., K], the layers' own weights and then the adapters'
    first matrices; seconds: [M_i, r_i] of each, the second ones; scales: of each adapter.
    """

    weight: Tensor
    seconds: tuple[Tensor, ...]
    scales: tuple[float, ...]

    def __call__(self, states: Tensor, beside: Tensor | None = None) -> Tensor:
        """Of one layer. states: [N, K], beside: [N, M], added -> [N, M]"""
        both = linear(states, self.weight)
        return add_adapter(both, self.seconds[0], self.scales[0], beside)

    def gated(self, states: Tensor) -> Tensor:
        """SiLU of what the first of two layers makes, times what the second does: [N, M]"""
        return gated_adapters(linear(states, self.weight), self.seconds, self.scales)


def join(parts: Sequence[nn.Module]) -> Joined | None:
    """The weights and the adapters that are switched on, as they are now; None where one has none,
    or where they are no plain matrices of one type.

    The first call moves the weights: they become the first rows of a larger matrix.
    """
    adapters = [found for part in parts if (found := _adapter(part))]
    if len(adapters) < len(parts):
        return None
    ranks = [len(first) for first, _, _ in adapters]
    whole = _room(parts, sum(ranks))
    for row, (first, _, _) in zip(torch.split(whole[-sum(ranks) :], ranks), adapters, strict=True):
        row.copy_(first)
    seconds, scales = tuple(each[1] for each in adapters), tuple(each[2] for each in adapters)
    return Joined(whole, seconds, scales)


def _adapter(part: nn.Module) -> tuple[Tensor, Tensor, float] | None:
    """Its two matrices and its scale."""
    if not isinstance(part, LoraLinear) or part.merged or part.disable_adapters:
        return None
    base: Any = part.get_base_layer()
    names = [name for name in part.active_adapters if name in part.lora_A]
    plain = type(base) is nn.Linear and type(base.weight) is nn.Parameter and base.bias is None
    if not plain or base.weight.requires_grad:
        return None
    if len(names) != 1 or names[0] in part.lora_variant or hasattr(base.weight, "ds_id"):
        return None
    matrices: Any = part.lora_A[names[0]], part.lora_B[names[0]]
    first, second = (matrix.weight.detach() for matrix in matrices)
    if first.dtype != base.weight.dtype or len(first) > MOST or len(first) % 8:
        return None
    return first, second, float(part.scaling[names[0]])


def _room(parts: Sequence[Any], rows: int) -> Tensor:
    """The larger matrix, kept with the first of the layers for the next call."""
    weights = [part.get_base_layer().weight for part in parts]
    made, width = sum(map(len, weights)), weights[0].shape[1]
    whole: Tensor | None = getattr(parts[0], "joined", None)
    if whole is None or whole.shape != (made + rows, width) or not _lie_in(whole, weights):
        whole = weights[0].new_empty(made + rows, width)
        places = torch.split(whole, [*map(len, weights), rows])
        for weight, place in zip(weights, places, strict=False):
            place.copy_(weight.detach())
            weight.data = place
        parts[0].joined = whole
    return whole


def _lie_in(whole: Tensor, weights: Sequence[Any]) -> bool:
    starts = accumulate(map(len, weights), initial=0)
    return all(
        weight.data_ptr() == whole[start].data_ptr()
        for weight, start in zip(weights, starts, strict=False)
    )
