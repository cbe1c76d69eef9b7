"""An adapter's first matrix as further rows of the weight that it stands beside: one product gives
what both make of a state, and what is left of the adapter is small enough to be fused."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import linear

MOST = 64
"""Rank up to which the second matrix is summed up beside what comes next."""


class Joined(NamedTuple):
    """weight: [M + r, K], whose first M rows are the layer's own weight. second: [M, r], scaled."""

    weight: Tensor
    second: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """states: [N, K] -> [N, M]"""
        both = linear(states, self.weight)
        made = len(self.second)
        return both[:, :made] + (both[:, None, made:] * self.second).sum(dim=-1)


def join(part: nn.Module) -> Joined | None:
    """The weight and the adapter that is switched on, as it is now; None where there is none, or
    where they are no plain matrices of one type.

    The first call moves the weight: it becomes the first rows of a larger matrix.
    """
    if not isinstance(part, LoraLinear) or part.merged or part.disable_adapters:
        return None
    base: Any = part.get_base_layer()
    names = [name for name in part.active_adapters if name in part.lora_A]
    if (
        type(base) is not nn.Linear
        or type(base.weight) is not nn.Parameter
        or base.bias is not None
    ):
        return None
    if len(names) != 1 or names[0] in part.lora_variant or hasattr(base.weight, "ds_id"):
        return None
    first, second = part.lora_A[names[0]].weight, part.lora_B[names[0]].weight
    if first.dtype != base.weight.dtype or len(first) > MOST or len(first) % 8:
        return None
    whole = _room(part, base.weight, len(first))
    whole[len(base.weight) :] = first.detach()
    return Joined(whole, second.detach() * part.scaling[names[0]])


def _room(part: Any, weight: nn.Parameter, rows: int) -> Tensor:
    """The larger matrix, kept with the layer for the next call."""
    made, width = weight.shape
    whole: Tensor | None = getattr(part, "joined", None)
    if whole is None or whole.data_ptr() != weight.data_ptr() or len(whole) != made + rows:
        whole = torch.empty(made + rows, width, dtype=weight.dtype, device=weight.device)
        whole[:made] = weight.detach()
        weight.data = whole[:made]
        part.joined = whole
    return whole
