"""The output layer of Baichuan 2: NormHead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

EPSILON = 1e-12


class NormHead(nn.Linear):
    """Logits against rows of unit length (Baichuan 2 report, section 2.5): x W^T / ||W||.

    Dividing the logits, not the weight, needs no second [V, H] matrix and never changes the weight:
    PEFT, `resize_token_embeddings` and ZeRO-3 see an ordinary `nn.Linear`. The row lengths [V] are
    float32 whatever the weight is, and are kept between calls only in evaluation, while the weight
    is the same tensor at the same version.
    """

    def __init__(self, in_features: int, out_features: int, **kwargs: Any) -> None:
        super().__init__(in_features, out_features, bias=False, **kwargs)
        self._cache: tuple[object, torch.Tensor] | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [..., H] -> logits [..., V], of the type that a plain linear layer returns."""
        logits = F.linear(hidden, self.weight)
        return (logits * self.inverse_lengths()).to(logits.dtype)

    def normalised_weight(self) -> torch.Tensor:
        """[V, H]: the matrix of a plain linear layer that gives the same logits."""
        return (self.weight * _inverse_lengths(self.weight)[:, None]).to(self.weight.dtype)

    def train(self, mode: bool = True) -> NormHead:
        # Optimisers that write through `.data` leave no version behind, but every loop passes here.
        self._cache = None
        super().train(mode)
        return self

    def inverse_lengths(self) -> torch.Tensor:
        """[V] float32, one over the length of each row."""
        learning = torch.is_grad_enabled() and self.weight.requires_grad
        if self.training or learning or torch.compiler.is_compiling() or self.weight.is_inference():
            return _inverse_lengths(self.weight)
        weight = self.weight
        key = (weight.data_ptr(), weight._version, weight.device, weight.dtype, weight.shape)
        if self._cache is None or self._cache[0] != key:
            # An inference tensor could not be used by a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                self._cache = (key, _inverse_lengths(weight))
        return self._cache[1]


def _inverse_lengths(weight: torch.Tensor) -> torch.Tensor:
    """weight: [V, H] -> [V] float32, one over the length of each row."""
    lengths: torch.Tensor = torch.linalg.vector_norm(weight, dim=-1, dtype=torch.float32)
    return lengths.clamp(EPSILON).reciprocal()
