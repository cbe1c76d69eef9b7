"""Sampling from a causal model: `generate` with a plain engine and a fast one behind it."""

from rlhf.generation.generate import generate
from rlhf.generation.types import Completion

__all__ = ["Completion", "generate"]
