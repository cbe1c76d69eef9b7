"""Checkpoints that the main process alone reads, for models that are spread over the processes.

Every other process has the model without storage; `fill` then gives all of them one part at a time,
which is spread before the next one comes. So every file is read once, whatever the number of hosts,
and nobody but the main process ever has a whole model, that one in the mapped file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

T = TypeVar("T")


def by_main(work: Callable[[], T]) -> T:
    """What the main process's `work` returns, or raises, on every process; all of them call it."""
    if not dist.is_initialized():
        return work()
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = work()
        except Exception as error:
            told[1] = error
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    found: T = told[0]
    return found


def from_main(load: Callable[[], PreTrainedModel]) -> Any:
    """The main process's model as it has loaded it; elsewhere the same one without storage."""
    loaded: list[PreTrainedModel] = []

    def described() -> tuple[Any, Any, Any]:
        loaded.append(load())
        model = loaded[0]
        generation = model.generation_config if model.can_generate() else None
        return type(model), model.config, generation

    kind, config, generation = by_main(described)
    if loaded:
        return loaded[0]
    with init_empty_weights():
        model: PreTrainedModel = kind(config)
    if generation is not None:
        model.generation_config = generation
    return model.eval()


def fill(part: nn.Module, device: torch.device) -> None:
    """Give every process, on its device, the main one's parameters and buffers of a part.

    Those that are spread already are left alone.
    """
    owned = [
        (owner, name, tensor)
        for owner in part.modules()
        for name, tensor in (*owner._parameters.items(), *owner._buffers.items())
        if tensor is not None and not is_spread(tensor)
    ]
    kinds = by_main(lambda: [(tensor.shape, tensor.dtype) for _, _, tensor in owned])
    for (owner, name, tensor), (shape, dtype) in zip(owned, kinds, strict=True):
        if dist.get_rank() == 0:
            # Never the mapped file itself, which has no aligned addresses and may be written over.
            value = tensor.detach().to(device, copy=True).contiguous()
        else:
            value = torch.empty(shape, dtype=dtype, device=device)
        dist.broadcast(value, src=0)
        if isinstance(tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=tensor.requires_grad)
        setattr(owner, name, value)


def is_spread(tensor: Tensor) -> bool:
    """Whether this process has a part of it alone, by torch's or by DeepSpeed's ways."""
    return isinstance(tensor, DTensor) or hasattr(tensor, "ds_id")
