"""Bytes that a computation would hold at its height, found by running it without any storage.

The real code runs on tensors of the meta device, which have shapes and no numbers; a dispatch mode
sees every tensor come, and its storage go. What a GPU does in another way than a meta tensor is
replaced meanwhile: fused attention, which keeps no scores, and autocast, which meta does not know.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

BLOCK = 512
"""PyTorch's allocator rounds every tensor up to a multiple of so many bytes."""
Kinds = Mapping[str, int]
"""Bytes by what they are for."""


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts live storages while it is entered.

    A tensor with a dimension last of `vocabulary` entries is `logits`, a weight cast to another
    type `weights`, everything else `activations`. Tensors on the CPU, such as token ids and masks,
    keep their numbers and count nothing until they meet a meta tensor.
    """

    def __init__(self, vocabulary: int, existing: nn.Module) -> None:
        """existing: its parameters, buffers and gradients were there before, and are not counted"""
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: Kinds = {}
        self._vocabulary = vocabulary
        self._live: Counter[str] = Counter()
        self._known: dict[int, Any] = {}
        self._casting = False
        for tensor in (*existing.parameters(), *existing.buffers()):
            for held in (tensor, tensor.grad):
                if held is not None:
                    self._known[held.untyped_storage()._cdata] = held.untyped_storage()

    @property
    def live(self) -> int:
        """Bytes of all that is alive now."""
        return sum(self._live.values())

    def cast(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight in another type, counted as a weight."""
        self._casting = True
        try:
            return weight.to(dtype)
        finally:
            self._casting = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        meta = [tensor.is_meta for tensor in tensors]
        if any(meta):
            if func is torch.ops.aten._local_scalar_dense.default:
                return 0  # whether a mask can be left out: not when some row is padded
            if func is torch.ops.aten.index.Tensor:  # how many a mask keeps is a matter of numbers
                args = (args[0], [part for index in args[1] for part in _places(index)])
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": torch.device("meta")}
            if not all(meta):
                args, kwargs = tree_map_only(Tensor, _without_numbers, (args, kwargs))
        result = func(*args, **kwargs)
        for made in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(made, Tensor) and made.is_meta:
                self._count(made)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        logits = tensor.dim() > 0 and tensor.shape[-1] == self._vocabulary
        kind = "weights" if self._casting else "logits" if logits else "activations"
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def gone(_: Any) -> None:
            del self._known[key]
            self._live[kind] -= size

        self._known[key] = weakref.ref(storage, gone)
        self._live[kind] += size
        if self.live > sum(self.peak.values()):
            self.peak = {kind: size for kind, size in self._live.items() if size}


def _without_numbers(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


def _places(index: Tensor | None) -> list[Tensor | None]:
    if index is None or index.dtype != torch.bool or index.is_meta:
        return [index]
    return list(index.nonzero().unbind(1))


@contextmanager
def as_on_gpu(counted: Allocations, autocast: torch.dtype | None) -> Iterator[None]:
    """Attention fused, and linear layers in the type `autocast` if one is given.

    Autocast keeps the cast of a weight that learns until it is left: until the forward pass ends.
    """
    torch_functions: Any = functional
    linear, attention = functional.linear, functional.scaled_dot_product_attention
    kept: dict[int, Tensor] = {}

    def cast(tensor: Tensor) -> Tensor:
        if autocast is None or tensor.dtype == autocast:
            return tensor
        if not isinstance(tensor, nn.Parameter):
            return tensor.to(autocast)
        if id(tensor) in kept:
            return kept[id(tensor)]
        copy = counted.cast(tensor, autocast)
        if tensor.requires_grad and not _going_back():
            kept[id(tensor)] = copy
        return copy

    def cast_linear(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(cast(states), cast(weight), None if bias is None else cast(bias))

    def fused(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        attend: Any = _FusedAttention.apply
        attended: Tensor = attend(cast(query), cast(key), cast(value), attn_mask)
        return attended

    torch_functions.linear = cast_linear
    torch_functions.scaled_dot_product_attention = fused
    try:
        with counted:
            yield
    finally:
        torch_functions.linear = linear
        torch_functions.scaled_dot_product_attention = attention


def _going_back() -> bool:
    """Whether this is a recomputation in a backward pass."""
    return torch._C._current_graph_task_id() != -1


class _FusedAttention(torch.autograd.Function):
    """What FlashAttention and the memory-efficient kernel keep (Dao et al. 2022):
    query, key, value, the output and a number a row; the latter also the mask, as numbers."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.empty(mask.shape, dtype=query.dtype, device=query.device)
        ctx.save_for_backward(query, key, value, output, sums, mask)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
