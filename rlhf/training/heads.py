"""TRL's trainers over heads that are more than their weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from rlhf.models.head_loss import logprobs_by_chunk


@contextmanager
def own_head(model: Any) -> Iterator[None]:
    """TRL's patch of `forward` multiplies by the bare weight of the output embeddings. Under a
    NormHead that is another model; inside this context it is given the matrix that is the model's
    own. Afterwards the model is without both patches.

    TRL's trainers are made inside: they refuse a head with an adapter, which their patch ignores.
    """
    model.get_output_embeddings = lambda: _Head(model)
    try:
        yield
    finally:
        for patched in ("get_output_embeddings", "forward"):
            model.__dict__.pop(patched, None)


def read_adapted_head(model: Any) -> None:
    """Where the head of a language model has a LoRA adapter, in place of TRL's `forward` one that
    goes through the head as it is, adapter included; for inside `own_head`.

    Given to TRL's, the sum of weight and adapter would be a second matrix [V, H] and its gradient a
    third, and in bfloat16 it rounds off what a young adapter adds to a weight.
    """
    if not isinstance(model.lm_head, LoraLayer):
        return

    def forward(*args: Any, labels: Tensor, fused_lm_head: bool, **kwargs: Any) -> Any:
        hidden = model.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        kept = targets != -100
        logprobs = logprobs_by_chunk(model.lm_head, hidden[kept], targets[kept])
        placed = logprobs.new_zeros(kept.shape).masked_scatter(kept, logprobs)
        # Figures that TRL wants beside them, and nobody reads.
        unread = {"entropy": torch.zeros_like(placed), "mean_logits": torch.zeros_like(placed)}
        return FusedCausalLMOutput(log_probs=placed, **unread, is_top1=torch.zeros_like(kept))

    model.forward = forward


@dataclass(frozen=True)
class _Head:
    """Output embeddings as TRL reads them."""

    model: Any

    @cached_property
    def weight(self) -> Tensor:
        """[V, H]"""
        own = hasattr(self.model, "head_weight")
        weight: Tensor = self.model.head_weight() if own else self.model.lm_head.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """[V], or none"""
        bias: Tensor | None = self.model.lm_head.bias
        return bias
