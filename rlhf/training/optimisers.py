"""An optimiser section in the words of transformers' Trainer."""

from __future__ import annotations

import importlib.util
import sys

import torch

from rlhf.config.schema import OptimiserSection


def schedule(optimiser: OptimiserSection) -> tuple[str, dict[str, float]]:
    """Of the learning rate: its kind and settings."""
    if optimiser.schedule == "constant" or optimiser.minimum == 1:
        return "constant_with_warmup", {}
    if optimiser.schedule == "cosine":
        return "cosine_with_min_lr", {"min_lr_rate": optimiser.minimum}
    return "polynomial", {"power": 1.0, "lr_end": optimiser.minimum * optimiser.learning_rate}


def optimiser_name(optimiser: OptimiserSection, device: torch.device) -> str:
    """Raises ValueError where its library is missing."""
    if optimiser.kind == "adamw":  # fused, a step needs no copies of what learns
        return "adamw_torch_fused" if device.type == "cuda" else "adamw_torch"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            "optimiser.kind: adamw-8bit needs bitsandbytes; pip install 'baichuan-rlhf[gpu]'"
        )
    return "adamw_8bit"


def forget_overrides() -> None:
    """What transformers has bitsandbytes do with an embedding's moments ends with its training.

    bitsandbytes would keep the embedding itself in memory, and treat whatever weight stands in its
    place in a later optimiser in the same way.
    """
    if "bitsandbytes.optim" in sys.modules:
        from bitsandbytes.optim import GlobalOptimManager

        GlobalOptimManager.get_instance().initialize()
