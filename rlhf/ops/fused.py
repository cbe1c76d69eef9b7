"""Functions of tensors compiled into few kernels, gradients included."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch


def fused(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    """The function, where `compiled` through torch.compile, for tensors of every size.

    What lies between its arguments and its results then needs no memory of its own.
    """
    return _compiled(function) if compiled else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)
