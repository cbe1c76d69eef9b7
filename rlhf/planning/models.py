"""Models without storage: of any depth, with adapters and 4-bit weights, and their sizes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import rlhf.models  # noqa: F401  (registers the families with transformers' Auto classes)
from rlhf.config.schema import TuningSection
from rlhf.models.adapter import Task, add_lora
from rlhf.models.quantise import HEADS
from rlhf.models.registry import config_of
from rlhf.models.spec import ModelSpec

NF4_BLOCK, NF4_GROUP = 64, 256
"""Weights that share a scale of 8 bits, and scales that share one of 32 (Dettmers et al. 2023)."""


@dataclass(frozen=True)
class Weights:
    """Numbers of parameters.

    blocks: in the linear layers of the layers, the ones that NF4 packs. embedding: the table.
    rest: the head, norms and biases. learning: those that have gradients.
    adapters: those that LoRA adds, and PEFT's own copy of a reward model's head.
    """

    blocks: int
    embedding: int
    rest: int
    learning: int = 0
    adapters: int = 0

    @property
    def plain(self) -> int:
        """All but adapters."""
        return self.blocks + self.embedding + self.rest

    @property
    def multiplied(self) -> int:
        """N in 2 N FLOPs a token: all but adapters and the embedding table."""
        return self.blocks + self.rest

    def frozen_bytes(self, width: int, quantised: bool) -> int:
        """Of all but what learns. width: bytes of a plain weight."""
        frozen = self.plain + self.adapters - self.learning
        return (
            (frozen - self.blocks) * width + nf4_bytes(self.blocks) if quantised else frozen * width
        )


def nf4_bytes(weights: int) -> int:
    """Half a byte each, a byte a block for its scale, four bytes a group of those."""
    scales = -(-weights // NF4_BLOCK)
    return weights // 2 + scales + 4 * -(-scales // NF4_GROUP)


@lru_cache(maxsize=64)
def weights(spec: ModelSpec, task: Task, tuning: TuningSection | None) -> Weights:
    """Counted on models of one and two layers. tuning: None for one that does not learn."""
    one, two = (_counted(spec, task, tuning, layers) for layers in (1, 2))
    more = spec.layers - 1
    return Weights(*(a + more * (b - a) for a, b in zip(one, two, strict=True)))


def _counted(
    spec: ModelSpec, task: Task, tuning: TuningSection | None, layers: int
) -> tuple[int, ...]:
    """The fields of `Weights`."""
    model = plain_model(spec, task, torch.float32, layers)
    plain = sum(parameter.numel() for parameter in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    blocks = sum(getattr(parent, name).weight.numel() for parent, name in _packable(model))
    if tuning is not None:
        model = learner(model, tuning, task)
    total = sum(parameter.numel() for parameter in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if tuning and p.requires_grad)
    return blocks, embedding, plain - blocks - embedding, learning, total - plain


def layer_sizes(spec: ModelSpec, task: Task, tuning: TuningSection) -> tuple[int, ...]:
    """Entries of every parameter of one layer, adapters included."""
    model = learner(plain_model(spec, task, torch.float32, 1), tuning, task)
    return tuple(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if any(part.isdigit() for part in name.split("."))
    )


def plain_model(spec: ModelSpec, task: Task, dtype: torch.dtype, layers: int) -> Any:
    """A model on the meta device, of so many layers."""
    config = config_of(spec, layers)
    kind: Any = AutoModelForSequenceClassification if task == "reward" else AutoModelForCausalLM
    with torch.device("meta"):
        return kind.from_config(config, dtype=dtype)


def learner(model: Any, tuning: TuningSection, task: Task) -> Any:
    """The model as it is tuned, its blocks in 4 bits if the method is qlora."""
    if tuning.method == "full":
        return model
    if tuning.method == "qlora":
        for parent, name in _packable(model):
            setattr(parent, name, _PackedLinear(getattr(parent, name)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about weights on the meta device
        return add_lora(model, tuning, task)


def _packable(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The linear layers that quantisation packs: the module that holds one, and its name there."""
    return [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and name not in HEADS
    ]


class _PackedLinear(nn.Linear):
    """Stands for bitsandbytes' linear layer: the plain weight exists during each product only.

    Its own weight has the shape of the plain one: tensors of the meta device cost nothing, and what
    the packed weight takes is `nf4_bytes`.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(
            plain.in_features,
            plain.out_features,
            bias=False,
            device="meta",
            dtype=plain.weight.dtype,
        )
        self.weight.requires_grad_(False)
        self.bias = plain.bias

    def forward(self, states: Tensor) -> Tensor:
        multiply: Any = _PackedProduct.apply
        product: Tensor = multiply(states, self.weight)
        product = product if self.bias is None else product + self.bias
        return product.clone()  # PEFT copies the result of a 4-bit layer


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        dense = torch.empty_like(weight)
        return (states.to(weight.dtype) @ dense.t()).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        dense = torch.empty_like(weight)
        return (gradients[0].to(weight.dtype) @ dense).to(gradients[0].dtype), None
