"""Order and grouping of rows, drawn from a seed: the same in every run, whatever was resumed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor


def generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A generator of its own for one purpose in one iteration, so that none has to be saved."""
    return torch.Generator().manual_seed(_source(seed, purpose, index).getrandbits(63))


def prompt_indices(prompts: int, batch: int, seed: int, iteration: int) -> list[int]:
    """Which prompts an iteration takes: passes over all of them, each in a new order.

    Args:
        prompts: how many there are.
        batch: how many to take.
        seed: of the run.
        iteration: from 0.

    Returns:
        `batch` indices; over the iterations every prompt comes equally often, to one.
    """
    orders: dict[int, list[int]] = {}
    chosen = []
    for position in range(iteration * batch, (iteration + 1) * batch):
        number, place = divmod(position, prompts)
        if number not in orders:
            orders[number] = list(range(prompts))
            _source(seed, "prompts", number).shuffle(orders[number])
        chosen.append(orders[number][place])
    return chosen


def epoch_orders(rows: int, epochs: int, random_order: torch.Generator) -> Iterator[Tensor]:
    """The order [B] of the rows in every epoch.

    The first is the rollout's own, whose prompts stand in random order already: the experience is
    read in the same groups, so that the first minibatch meets the very numbers it was made with.
    """
    yield torch.arange(rows)
    for _ in range(epochs - 1):
        yield torch.randperm(rows, generator=random_order)


def microbatches(lengths: Tensor, rows: Tensor, size: int) -> list[Tensor]:
    """Cut `rows` [M] of a batch with `lengths` [B] into groups of like length, `size` rows each."""
    return list(torch.split(rows[lengths[rows].argsort(stable=True).cpu()], size))


def _source(seed: int, purpose: str, index: int) -> random.Random:
    return random.Random(f"{seed} {purpose} {index}")
