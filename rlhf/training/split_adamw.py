"""AdamW over float32 weights of which the model holds the upper 16 bits, and this the lower.

A bfloat16 weight swallows every update below 1/256 of itself. Beside it lie the 16 bits by which
float32 is finer, so the weight that learns is a float32 one, at 2 bytes more and not at 4.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.config.schema import OptimiserSection


def split_optimiser(
    optimiser: OptimiserSection, *, compiled: bool = False
) -> tuple[type, dict[str, Any]]:
    """Class and arguments of an 8-bit AdamW for bfloat16 weights, its step in float32.

    compiled: put the halves together and take them apart in one kernel each (torch.compile).
    """
    from bitsandbytes.optim import AdamW8bit

    fused = partial(torch.compile, dynamic=True) if compiled else lambda function: function
    whole_of, halve = fused(join), fused(split_into)

    class SplitAdamW8bit(AdamW8bit):  # type: ignore[misc]
        """bitsandbytes' AdamW, given each weight whole; `lower` in its state is [*shape] int16."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.non_castable_tensor_keys.add("lower")

        @torch.no_grad()
        def init_state(self, group: Any, p: Any, gindex: int, pindex: int) -> None:
            super().init_state(group, p, gindex, pindex)
            self.state[p]["lower"] = torch.zeros_like(p, dtype=torch.int16)

        @torch.no_grad()
        def update_step(self, group: Any, p: Any, gindex: int, pindex: int) -> None:
            if p.dtype != torch.bfloat16:
                super().update_step(group, p, gindex, pindex)
                return
            # A weight of its own for the step: one whose data changes type loses what others have
            # hung on its gradient, such as the sum over processes.
            upper, lower = p.data, self.state[p]["lower"]
            whole = nn.Parameter(whole_of(upper, lower), requires_grad=False)
            whole.grad = p.grad.float()
            self.state[whole] = self.state[p]
            super().update_step(group, whole, gindex, pindex)
            del self.state[whole]
            halve(whole.data, upper, lower)

    return SplitAdamW8bit, {
        "lr": optimiser.learning_rate,
        "betas": (optimiser.beta1, optimiser.beta2),
        "eps": 1e-8,
        "weight_decay": optimiser.weight_decay,
    }


def join(upper: Tensor, lower: Tensor) -> Tensor:
    """The float32 weight. upper: bfloat16, the nearest to it; lower: int16, its bits beyond."""
    bits = upper.view(torch.int16).to(torch.int32).bitwise_left_shift_(16)
    return bits.add_(lower).view(torch.float32)


def split_into(whole: Tensor, upper: Tensor, lower: Tensor) -> None:
    """Fill `upper` and `lower` so that `join` gives back the same bits. whole: float32."""
    bits = whole.view(torch.int32)
    # The lower bits as a signed number: then the upper ones are the nearest, not those cut off.
    lower.copy_(bits)
    upper.view(torch.int16).copy_((bits - lower).bitwise_right_shift_(16))
