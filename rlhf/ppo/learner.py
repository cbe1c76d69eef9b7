"""One of the two networks that learn: its parameters, optimiser and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rlhf.config.schema import OptimiserSection
from rlhf.ppo.controllers import learning_rate


class Learner:
    """AdamW on a list of parameters, with a schedule and a bound on the gradient's norm."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], section: OptimiserSection, steps: int
    ) -> None:
        """steps: optimiser steps of the whole run, which the schedule stretches over."""
        self._parameters = list(parameters)
        self._section = section
        self._steps = steps
        self._taken = 0
        self._optimiser = _optimiser(self._parameters, section)

    def clip_gradient(self) -> float:
        """Bound the gradient's norm and return what it was."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._section.grad_clip)
        return norm.item()

    def step(self) -> None:
        """Move along the gradient and forget it."""
        rate = learning_rate(self._section, self._taken, self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._taken += 1

    def state(self) -> dict[str, Any]:
        return {"taken": self._taken, "optimiser": self._optimiser.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._taken = state["taken"]
        self._optimiser.load_state_dict(state["optimiser"])


def _optimiser(parameters: list[nn.Parameter], section: OptimiserSection) -> torch.optim.Optimizer:
    betas = (section.beta1, section.beta2)
    if section.kind == "adamw":
        return torch.optim.AdamW(
            parameters, section.learning_rate, betas, weight_decay=section.weight_decay
        )
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
