"""What compiled parts of a model keep for the backward pass, without compiling anything.

torch.compile keeps what is costly to compute again, and computes the rest again inside the kernels
of the backward pass. Here, on tensors without numbers, a part keeps what comes into it, what comes
out of its products, and what attention takes and gives, and nothing else. Within a budget it keeps
less: what attention takes goes first, which is nearest to a product, then what is smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlhf.models.compiled import compile_blocks, compile_training
from rlhf.models.language_model import LanguageModel

Compile = Callable[..., None]
KINDS: dict[str, Compile] = {"parts": compile_blocks, "blocks": compile_training}
"""Of `Learning.compiled`: as the reward model's training has it, and as SFT's."""
ATTENTION = (torch.ops.aten.empty_like.default, torch.ops.aten.empty.memory_format)
"""What `rlhf.planning.allocations` puts in the place of attention."""


def compile_without_compiling(
    model: nn.Module, kind: str, added: tuple[int, ...], budget: float
) -> None:
    """As the training would, in place.

    Args:
        added: sizes that the products go over whose results are only added to others, which keeps
            nothing: the feed-forward's last one and an adapter's second.
        budget: the share of all that which is kept.
    """
    with _compiling_means(partial(_keep_products, added, budget)):
        KINDS[kind](model)
    for part in model.modules():
        if isinstance(part, LanguageModel):
            part.compiled_loss = False


@contextmanager
def _compiling_means(work: Callable[[nn.Module], None]) -> Iterator[None]:
    before = nn.Module.compile
    nn.Module.compile = lambda module, *_, **__: work(module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.compile = before  # type: ignore[method-assign]


def _keep_products(added: tuple[int, ...], budget: float, part: nn.Module) -> None:
    forward = part.forward

    def kept(*args: Any, **kwargs: Any) -> Any:
        there = [*tree_leaves((args, kwargs)), *part.parameters()]
        products = _Products(added, budget, there)
        with products, saved_tensors_hooks(products.pack, _Packed.unpack):
            result = forward(*args, **kwargs)
        products.settle()
        return result

    part.forward = kept


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what a part keeps: what was there, products, and what attention takes and gives."""

    def __init__(self, added: tuple[int, ...], budget: float, there: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._added = added
        self._budget = budget
        self._kept = [tensor for tensor in there if isinstance(tensor, Tensor)]
        self._there = {_storage(tensor) for tensor in self._kept}
        self._attended: set[torch.Size] = set()
        self._packed: list[_Packed] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and args[0].shape[-1] not in self._added:
            self._kept.append(result)
        elif func in ATTENTION:
            self._kept.append(result)
            self._attended |= {tensor.shape for tensor in args if isinstance(tensor, Tensor)}
        return result

    def pack(self, tensor: Tensor) -> _Packed:
        """What stands for a tensor until the backward pass."""
        self._packed.append(_Packed(tensor, self._kept))
        return self._packed[-1]

    def settle(self) -> None:
        """At the end of the part, leave the size alone of every tensor that is not kept."""
        kept = {_storage(tensor) for tensor in self._kept}
        for packed in self._packed:
            tensor = packed.tensor
            assert tensor is not None, "a part settles once"
            passing = _storage(tensor) not in kept and tensor.shape not in self._attended
            if tensor.is_meta and passing:
                packed.tensor = None
        over = self._over_budget(kept)
        for packed in self._packed:
            if packed.tensor is not None and _storage(packed.tensor) in over:
                packed.tensor = None
        self._kept[:] = [tensor for tensor in self._kept if _storage(tensor) not in over]
        self._packed.clear()

    def _over_budget(self, products: set[int]) -> set[int]:
        """Storages to forget: what attention takes, then products, of each the smallest first."""
        held = [packed.tensor for packed in self._packed if packed.tensor is not None]
        sizes = {
            _storage(tensor): tensor.untyped_storage().nbytes()
            for tensor in (*held, *self._kept)
            if tensor.is_meta and _storage(tensor) not in self._there
        }
        total, allowed = sum(sizes.values()), self._budget * sum(sizes.values())
        over: set[int] = set()
        for storage in sorted(sizes, key=lambda each: (each in products, sizes[each])):
            if total <= allowed:
                break
            over.add(storage)
            total -= sizes[storage]
        return over


class _Packed:
    """A tensor for the backward pass, or its size; with it stays what it is computed from."""

    def __init__(self, tensor: Tensor, computed_from: list[Tensor]) -> None:
        self.tensor: Tensor | None = tensor
        self._size = (tensor.shape, tensor.stride(), tensor.dtype)
        self._computed_from = computed_from

    def unpack(self) -> Tensor:
        if self.tensor is not None:
            return self.tensor
        shape, stride, dtype = self._size
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
