"""An adapter's first matrix as further rows of the weight that it stands beside: one product gives
what both make of a state, and what is left of the adapter is small enough to be fused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import linear

MOST = 64
"""Rank up to which the second matrix is summed up beside what comes next."""


class Joined(NamedTuple):
    """Layers that read the same states, with their adapters.

    weight: [M_1 + M_2 + ... + r_1 + r_2 + ..., K], the layers' own weights and then the adapters'
    first matrices; seconds: [M_i, r_i] of each, the second ones; scales: of each adapter.
    """

    weight: Tensor
    seconds: tuple[Tensor, ...]
    scales: tuple[float, ...]

    def __call__(self, states: Tensor) -> tuple[Tensor, ...]:
        """states: [N, K] -> [N, M_i] of each."""
        sizes = [len(second) for second in self.seconds]
        ranks = [second.shape[1] for second in self.seconds]
        found = torch.split(linear(states, self.weight), [*sizes, *ranks], dim=1)
        parts = zip(found, found[len(sizes) :], self.seconds, self.scales, strict=False)
        return tuple(
            made + (low[:, None] * second).sum(dim=-1) * scale for made, low, second, scale in parts
        )


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
    first, second = part.lora_A[names[0]].weight, part.lora_B[names[0]].weight
    if first.dtype != base.weight.dtype or len(first) > MOST or len(first) % 8:
        return None
    return first.detach(), second.detach(), float(part.scaling[names[0]])


def _room(parts: Sequence[Any], rows: int) -> Tensor:
    """The larger matrix, kept with the first of the layers for the next call."""
    weights = [part.get_base_layer().weight for part in parts]
    made, width = sum(map(len, weights)), weights[0].shape[1]
    whole: Tensor | None = getattr(parts[0], "joined", None)
    if whole is None or whole.shape != (made + rows, width) or not _lie_in(whole, weights):
        whole = weights[0].new_empty(made + rows, width)
        for weight, place in zip(
            weights, torch.split(whole, [*map(len, weights), rows]), strict=False
        ):
            place.copy_(weight.detach())
            weight.data = place
        parts[0].joined = whole
    return whole


def _lie_in(whole: Tensor, weights: Sequence[Tensor]) -> bool:
    starts = accumulate(map(len, weights), initial=0)
    return all(
        weight.data_ptr() == whole[start].data_ptr()
        for weight, start in zip(weights, starts, strict=False)
    )
