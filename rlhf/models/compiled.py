"""Training blocks compiled so that one compilation serves every layer."""

from __future__ import annotations

from typing import Any

import torch
import torch._functorch.config
from torch import nn
from transformers import PreTrainedModel

from rlhf.models.baichuan.trunk import BaichuanModel
from rlhf.models.language_model import LanguageModel

RECOMPILE_LIMIT = 64
"""Graphs of one Python function: each kind of part has one for training and one for scoring, and
all kinds share the function that calls a module."""
SHALLOW = 8
"""Blocks of a trunk whose last one is compiled once more for the positions that are read alone: of
32 it saved nothing that could be measured, for graphs of its own (docs/performance.md)."""

OPTIONS = {"triton.coalesce_tiling_analysis": False}
"""No use where lengths vary, and torch 2.11 fails in it on some of PPO's lengths."""


def compile_blocks(model: nn.Module) -> None:
    """Compiles the norms, projections and feed-forward of every block in place, adapters included.

    Attention stays as it is: its kernels are fused already, and a cache, which knows its layer's
    number, would make it a graph a layer. Weights and their names do not change.

    Args:
        model: plain or adapted; its blocks are those that transformers never splits.
    """
    _settings()
    for block in _blocks(model):
        for child in block.children():
            # Of attention, the parts around the product of query, key and value.
            for part in child.children() if hasattr(child, "layer_idx") else (child,):
                part.compile(dynamic=True, options=OPTIONS)


def compile_training(model: nn.Module, activation_budget: float = 1.0) -> None:
    """Compiles every block of a language model whole, and its chunked loss, in place.

    For training without a cache, whose attention needs no layer's number: one graph serves all.

    Args:
        activation_budget: share in (0, 1] of what a block would keep for the backward pass beside
            its input; torch chooses what to compute again instead, what costs least first.
    """
    _settings(activation_budget)
    for block in _blocks(model):
        block.compile(dynamic=True, options=OPTIONS)
    for part in model.modules():
        if isinstance(part, LanguageModel):
            part.compiled_loss = True
        if isinstance(part, BaichuanModel):
            part.cuts_last_block = len(part.layers) <= SHALLOW


def _settings(activation_budget: float = 1.0) -> None:
    """For the whole process: graphs are made at the first pass, when the last call's hold."""
    if torch._functorch.config.activation_memory_budget != activation_budget:
        torch._functorch.config.activation_memory_budget = activation_budget
        torch._dynamo.reset()  # graphs made under another budget would be taken again
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    # Among several processes a graph would be split wherever some megabytes of gradients are full,
    # inside a block, and fail on what goes across (torch 2.11 and 2.13). A block is short enough.
    torch._dynamo.config.optimize_ddp = False


def _blocks(model: nn.Module) -> list[nn.Module]:
    names: set[Any] = set()
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            names |= set(part._no_split_modules or ())
    return [part for part in model.modules() if type(part).__name__ in names]
