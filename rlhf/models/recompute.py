"""Which blocks are computed again in the backward pass instead of keeping what they computed."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_blocks(model: nn.Module, count: int) -> None:
    """Gradient checkpointing for `count` blocks, spread evenly over the depth; 0: for none.

    Raises ValueError when the model has fewer, or they cannot be.
    """
    blocks = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if count > len(blocks):
        raise ValueError(
            f"gradient_checkpointing: {count} of {len(blocks)} blocks; "
            f"set it to at most {len(blocks)}, or to true for all"
        )
    chosen = {index * len(blocks) // count for index in range(count)}
    for index, block in enumerate(blocks):
        block.gradient_checkpointing = index in chosen
        again: Any = partial(checkpoint, use_reentrant=False)
        block._gradient_checkpointing_func = again
