"""One of the two networks that learn: its parameters, optimiser and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rlhf.config.schema import OptimiserSection
from rlhf.models.spread import collected, spread_as
from rlhf.ppo.controllers import learning_rate
from rlhf.runtime.distributed import sum_gradients


class Learner:
    """AdamW on a list of parameters, with a schedule and a bound on the gradient's norm.

    What learns is float32. Parameters of another type, which the models compute with, are copies of
    such weights: a bfloat16 weight swallows updates below 1/256 of itself.

    taken: optimiser steps so far. scale: of the schedule's rate, lowered by a rollback. average:
    float32 moving averages of the parameters, in their order, or None.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        section: OptimiserSection,
        steps: int,
        ema_decay: float | None = None,
    ) -> None:
        """steps: optimiser steps of the whole run, which the schedule stretches over.
        ema_decay: weight of the old average at every step; None keeps no average."""
        self.taken = 0
        self.scale = 1.0
        self._parameters = list(parameters)
        self._learnt = [
            p if p.dtype == torch.float32 else nn.Parameter(_float(p)) for p in self._parameters
        ]
        self._section = section
        self._steps = steps
        self._decay = ema_decay
        self.average = None if ema_decay is None else [_float(p) for p in self._learnt]
        self._optimiser = _optimiser(self._learnt, section)

    def collect_gradient(self) -> None:
        """Take over what a backward pass has left, so that passes are added up in float32."""
        for parameter, learnt in self._copies():
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                learnt.grad = gradient if learnt.grad is None else learnt.grad.add_(gradient)
                parameter.grad = None

    def clip_gradient(self) -> float:
        """Add up the processes' gradients, bound the norm of that and return what it was."""
        self.collect_gradient()
        sum_gradients(self._learnt)
        norm = nn.utils.clip_grad_norm_(self._learnt, self._section.grad_clip)
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()

    def step(self) -> None:
        """Move along the gradient and forget it."""
        self.collect_gradient()
        rate = self.scale * learning_rate(self._section, self.taken, self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._copy_learnt()
        self.taken += 1
        if self.average is not None and self._decay is not None:
            for average, learnt in zip(self.average, self._learnt, strict=True):
                average.lerp_(learnt.detach(), 1 - self._decay)

    def state(self) -> dict[str, Any]:
        """What is spread over the processes is whole in the main one's; all of them call this."""
        optimiser = self._optimiser.state_dict()
        moments = {
            number: {name: collected(value) for name, value in values.items()}
            for number, values in optimiser["state"].items()
        }
        return {
            "taken": self.taken,
            "scale": self.scale,
            "optimiser": {**optimiser, "state": moments},
            "learnt": [collected(learnt.detach()) for _, learnt in self._copies()],
            "average": self.average and [collected(average) for average in self.average],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.taken, self.scale = state["taken"], state["scale"]
        moments = {
            number: {n: spread_as(value, self._learnt[number]) for n, value in values.items()}
            for number, values in state["optimiser"]["state"].items()
        }
        self._optimiser.load_state_dict({**state["optimiser"], "state": moments})
        for (_, learnt), whole in zip(self._copies(), state["learnt"], strict=True):
            learnt.data.copy_(spread_as(whole.to(learnt.device), learnt))
        self._copy_learnt()
        self._optimiser.zero_grad()  # what a step that was refused has left
        if state["average"] is not None:
            self.average = [
                spread_as(average.to(p.device), p)
                for average, p in zip(state["average"], self._learnt, strict=True)
            ]

    def _copies(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """The parameters of another type than float32, each with the weight that learns."""
        pairs = zip(self._parameters, self._learnt, strict=True)
        return [(parameter, learnt) for parameter, learnt in pairs if parameter is not learnt]

    @torch.no_grad()
    def _copy_learnt(self) -> None:
        for parameter, learnt in self._copies():
            parameter.copy_(learnt)


def _float(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().to(torch.float32, copy=True)


def _optimiser(parameters: list[nn.Parameter], section: OptimiserSection) -> torch.optim.Optimizer:
    betas = (section.beta1, section.beta2)
    if section.kind == "adamw":  # fused, a step needs no copies of what learns
        rate, decay = section.learning_rate, section.weight_decay
        return torch.optim.AdamW(parameters, rate, betas, weight_decay=decay, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError(
            "optimiser kind 'adamw-8bit' needs bitsandbytes: pip install 'baichuan-rlhf[gpu]', or "
            "set kind to 'adamw'"
        ) from None
    optimiser: torch.optim.Optimizer = AdamW8bit(
        parameters, section.learning_rate, betas, weight_decay=section.weight_decay
    )
    return optimiser
