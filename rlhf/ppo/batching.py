"""Order and grouping of rows, drawn from a seed: the same in every run, whatever was resumed."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from rlhf.runtime.distributed import rank, world_size


def generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A generator of its own for one purpose in one iteration, so that none has to be saved."""
    return torch.Generator().manual_seed(_source(seed, purpose, index).getrandbits(63))


def passes(rows: int, batch: int, seed: int, index: int, purpose: str = "prompts") -> list[int]:
    """Which rows a batch takes: passes over all of them, each in a new order.

    Args:
        rows: how many there are.
        batch: how many to take.
        seed: of the run.
        index: of the batch, from 0.
        purpose: what the rows are; each purpose has orders of its own.

    Returns:
        `batch` indices; over the batches every row comes equally often, to one.
    """
    chosen = []
    for position in range(index * batch, (index + 1) * batch):
        number, place = divmod(position, rows)
        chosen.append(_order(rows, seed, purpose, number)[place])
    return chosen


@lru_cache(maxsize=4)  # a batch ends one pass and begins the next, of prompts and of texts
def _order(rows: int, seed: int, purpose: str, number: int) -> array[int]:
    """A pass's order, not to be changed: of millions of rows it takes seconds, 4 bytes a row."""
    order = array("i", range(rows))
    _source(seed, purpose, number).shuffle(order)
    return order


def epoch_orders(rows: int, epochs: int, random_order: torch.Generator) -> Iterator[Tensor]:
    """The order [B] of the rows in every epoch.

    The first is the rollout's own, whose prompts stand in random order already: the experience is
    read in the same groups, so that the first minibatch meets the very numbers it was made with.
    """
    yield torch.arange(rows)
    for _ in range(epochs - 1):
        yield torch.randperm(rows, generator=random_order)


def microbatches(
    widths: Tensor, rows: Tensor, size: int, tokens: int | None = None
) -> list[Tensor]:
    """Cut the `rows` [M] of a batch into groups of like length, each for one backward pass.

    Of N processes, each gets every N-th of the rows in the order of their lengths, so that all have
    about as much to do.

    Args:
        widths: [B, C] real tokens of every row's parts that are padded by themselves: of the whole
            row, or of prompt and response. A group is as wide as the widest of each together.
        rows: [M] indices into the batch.
        size: rows a group.
        tokens: in place of `size`, the most that a group's rows times its width may come to; a row
            longer than that is a group of its own.

    Returns:
        Groups of indices into the batch, shortest rows first: those of this process.
    """
    lengths = widths.sum(dim=1)
    ordered = rows[lengths[rows].argsort(stable=True).cpu()][rank() :: world_size()]
    if tokens is None:
        return list(torch.split(ordered, size))
    counts, widest = [0], [0] * widths.shape[1]
    for row in widths[ordered].tolist():
        wider = [max(pair) for pair in zip(row, widest, strict=True)]
        if counts[-1] and (counts[-1] + 1) * sum(wider) > tokens:
            counts.append(0)
            wider = row
        counts[-1] += 1
        widest = wider
    return list(torch.split(ordered, counts))


def _source(seed: int, purpose: str, index: int) -> random.Random:
    return random.Random(f"{seed} {purpose} {index}")
