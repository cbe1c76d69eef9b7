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


@torch.inference_mode(False)
@torch.no_grad()
def join(parts: Sequence[Any]) -> Joined | None:
    """The weights and the adapters that are switched on, as they are now; None where one has none,
    or where they are no plain matrices of one type. Hooks of a layer are passed over.

    parts: layers that read the same states.

    The first call moves the weights: they become the first rows of a larger matrix, of which they
    are views; `separate` undoes it.
    """
    adapters = [found for part in parts if (found := _adapter(part))]
    if len(adapters) < len(parts):
        return None
    ranks = [len(first) for first, _, _ in adapters]
    whole = _room([part.get_base_layer().weight for part in parts], sum(ranks))
    for row, (first, _, _) in zip(torch.split(whole[-sum(ranks) :], ranks), adapters, strict=True):
        row.copy_(first)
    seconds, scales = tuple(each[1] for each in adapters), tuple(each[2] for each in adapters)
    return Joined(whole, seconds, scales)


def separate(model: nn.Module) -> None:
    """Give every weight that lies in a larger matrix memory of its own: for what saves a model by
    its memory, such as `safetensors.torch.save_model` and accelerate's."""
    for weight in model.parameters():
        if weight.untyped_storage().nbytes() > weight.nbytes:
            weight.data = weight.detach().clone()


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
    first: Any = part.lora_A[names[0]]
    second: Any = part.lora_B[names[0]]
    typed = first.weight.dtype == second.weight.dtype == base.weight.dtype
    if not typed or second.bias is not None or len(first.weight) > MOST or len(first.weight) % 8:
        return None
    scale = float(part.scaling[names[0]])
    return first.weight.detach(), second.weight.detach().contiguous(), scale


def _room(weights: Sequence[Any], rows: int) -> Tensor:
    """The larger matrix: that in which the weights lie, or a new one into which they move."""
    starts = [*accumulate(map(len, weights), initial=0)]
    width, whole = weights[0].shape[1], weights[0].untyped_storage()
    shape = (starts[-1] + rows, width)
    places = [(whole.data_ptr(), start * width) for start in starts[:-1]]
    lie = [(each.untyped_storage().data_ptr(), each.storage_offset()) for each in weights]
    if lie == places and whole.nbytes() == shape[0] * width * weights[0].itemsize:
        there: Tensor = weights[0].detach().as_strided(shape, (width, 1), 0)
        return there
    room: Tensor = weights[0].new_empty(shape)
    for weight, place in zip(weights, torch.split(room, [*map(len, weights), rows]), strict=False):
        place.copy_(weight)
        weight.data = place
    return room
