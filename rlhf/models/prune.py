"""A smaller member of the family: a run of blocks taken out of a trained model.

The run that goes is the one whose way in and way out are most alike: what it adds can be missed
best (Gromov et al. 2024, arXiv 2403.17887, equation 5, here over all tokens instead of the last).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from math import pi
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.models.export import assemble

BLOCKS = "model.layers."


@torch.no_grad()
def angular_distances(model: Any, texts: Iterable[Tensor], count: int) -> list[float]:
    """[layers - count + 1] distances, 0 to 1, over `count` blocks from the first, second, ... on.

    Args:
        model: a causal LM of L blocks.
        texts: [T] token ids each. The first token is left out: what models keep there is no text.
        count: blocks, fewer than the model has.

    Raises:
        ValueError: no text of two tokens.
    """
    places = model.config.num_hidden_layers - count + 1
    total, tokens = torch.zeros(places, dtype=torch.float64), 0
    for ids in texts:
        states = _states(model, ids)
        cosine = torch.cosine_similarity(states[:places], states[count:], dim=-1)
        total += torch.arccos(cosine.clamp(-1, 1)).sum(-1).double().cpu() / pi
        tokens += states.shape[1]
    if not tokens:
        raise ValueError("no text of two tokens or more to measure on; name a file with some")
    return (total / tokens).tolist()


def drop_blocks(model: PreTrainedModel, first: int, count: int) -> PreTrainedModel:
    """The model without blocks `first` to `first + count - 1`, on the same storage."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers -= count
    weights = {}
    for name, weight in model.state_dict().items():
        if name.startswith(BLOCKS):
            number, _, rest = name.removeprefix(BLOCKS).partition(".")
            index = int(number)
            if first <= index < first + count:
                continue
            name = f"{BLOCKS}{index - count if index >= first else index}.{rest}"
        weights[name] = weight
    pruned = assemble(type(model), config, weights)
    pruned.generation_config = model.generation_config
    return pruned


def _states(model: Any, ids: Tensor) -> Tensor:
    """[L + 1, T - 1, H] in float32: what goes into the first block, and comes out of each."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(_: Any, args: tuple[Any, ...], output: Any) -> None:
        inputs.append(args[0])
        outputs.append(output if isinstance(output, Tensor) else output[0])

    hooks = [block.register_forward_hook(keep) for block in model.model.layers]
    try:
        model.model(input_ids=ids.unsqueeze(0).to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([inputs[0], *outputs])[:, 0, 1:].float()
