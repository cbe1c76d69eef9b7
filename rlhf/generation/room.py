"""How many sequences the slot engine decodes side by side: as many as the device has room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

# Beyond so many, slots come by as many.
TOGETHER = 32
# Of the device's free memory, for keys and values; the rest is for reading prompts and for logits.
CACHE_SHARE = 0.8
# Where that is what limits the slots, their number is a multiple of this.
STEP = 16


class Decoder(Protocol):
    """What a model offers to be run by this engine; see `rlhf.models.baichuan.decode`."""

    slots: int

    def fill(self, slots: Tensor, prompts: Tensor, lengths: Tensor) -> Tensor: ...

    def step(self, tokens: Tensor, lengths: Tensor) -> Tensor: ...


def decoder(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, most: int
) -> Decoder:
    """As many slots as there are prompts, as `most` allows, and as fit into the device's memory.

    Rounded, up by the prompts and down by the memory: a step is compiled anew for every number of
    slots, which takes longer than a few idle ones do, and free memory is never the same twice.
    """
    make: Any = model
    capacity = max(map(len, prompts), default=0) + max_new_tokens
    wanted = min(most, _rounded(max(1, len(prompts))))
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # of what the last graph held, for one
        free, _ = torch.cuda.mem_get_info(model.device)
        free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
        wanted = fitting(wanted, free, make.slot_bytes(capacity))
    made: Decoder = make.slot_decoder(wanted, capacity)
    return made


def fitting(wanted: int, free: float, size: int) -> int:
    """Slots of so many bytes each where so many are free; one at least."""
    room = int(CACHE_SHARE * free / size)
    return max(1, min(wanted, room - room % STEP if room > STEP else room))


def _rounded(slots: int) -> int:
    """To a power of two as far as 32, then to a multiple of it."""
    return 1 << (slots - 1).bit_length() if slots <= TOGETHER else -(-slots // TOGETHER) * TOGETHER
