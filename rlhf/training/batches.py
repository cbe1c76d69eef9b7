"""Batches of transformers' Trainer that count every row once and every item alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerState

from rlhf.runtime.distributed import gather, rank, world_size


@dataclass(frozen=True)
class Rows:
    """A microbatch as the loader hands it on. In a list of lists it would look for tensors to pin
    and to send, number by number, while the GPU waits."""

    rows: list[Any]


class EachOnce(ABC):
    """Goes before a Trainer: in every epoch each row counts once, however many processes there are.

    accelerate fills the last round of microbatches up with rows from the epoch's beginning. These
    are left out here; a microbatch of nothing else becomes one row without anything to learn.

    Where rows have a length, those of a step are dealt out to its microbatches by it, so that
    there is little padding: the sum of their gradients is the same.
    """

    accelerator: Any
    args: Any
    state: TrainerState
    data_collator: Any
    train_dataset: Any

    @abstractmethod
    def unlearn(self, batch: dict[str, Any]) -> None:
        """Take out of a batch what the loss is over."""

    def length(self, row: Any) -> int:
        """Tokens to which the other rows of its microbatch are padded; alike: rows stay where they
        are."""
        return 0

    def tokens(self, rows: Sequence[Any], batch: dict[str, Any]) -> int:
        """Real tokens of rows and of the batch that they make, which is still on the host: the
        Trainer's own count would wait for the GPU before every microbatch."""
        return int(batch["attention_mask"].sum())

    def get_train_dataloader(self) -> Any:
        trainer: Any = super()
        collator, self.data_collator = self.data_collator, Rows  # they are put together later
        try:
            return trainer.get_train_dataloader()
        finally:
            self.data_collator = collator

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, *where: Any
    ) -> tuple[int, int]:
        """Epochs and microbatches to leave out when a run is resumed: from its last checkpoint on,
        all. The Trainer looks for the end behind a step, and would take one more."""
        trainer: Any = super()
        done: tuple[int, int]
        done = trainer._init_training_state(max_steps, steps_per_epoch, epochs, *where)
        return (epochs, 0) if self.state.global_step >= max_steps else done

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Any]:
        trainer: Any = super()
        microbatches = (each.rows for each in islice(epoch_iterator, num_batches))
        step = [(self._own_rows(rows), rows[0]) for rows in microbatches]
        own = _alike([mine for mine, _ in step], self.length)
        batches = [
            self._put_together(mine, other) for mine, (_, other) in zip(own, step, strict=True)
        ]
        found, labels = trainer.get_batch_samples(iter(batches), num_batches, device)
        self.count([(mine, batch) for mine, batch in zip(own, found, strict=True) if mine])
        return [_sent(batch, device) for batch in found], labels

    def count(self, step: Sequence[tuple[list[Any], dict[str, Any]]]) -> None:
        """Take note of what a step learns from: rows, and the batch that they make, which is still
        on the host."""
        tokens = sum(self.tokens(rows, batch) for rows, batch in step)
        self.state.num_input_tokens_seen += sum(gather(tokens))

    def _own_rows(self, rows: list[Any]) -> list[Any]:
        """Of a microbatch's rows those that are not there to fill it up."""
        at_once = self.args.per_device_train_batch_size
        left = len(self.train_dataset) % (at_once * world_size())
        last = self.accelerator.gradient_state.end_of_dataloader
        if world_size() == 1 or not last or not left:
            return rows
        return rows[: max(0, left - rank() * at_once)]

    def _put_together(self, rows: list[Any], other: Any) -> dict[str, Any]:
        """other: stands in for rows, where there are none."""
        batch: dict[str, Any] = self.data_collator(rows or [other])
        if not rows:
            self.unlearn(batch)
        return batch


class ItemMean(EachOnce):
    """Goes before a Trainer whose loss is a mean over a batch's items: over the whole batch's then.

    The Trainer divides by the number of microbatches and of processes; a microbatch with fewer
    items has to count for less.
    """

    _items: int
    current_gradient_accumulation_steps: int

    @abstractmethod
    def items(self, batch: dict[str, Any]) -> Tensor:
        """How many a microbatch has, a scalar."""

    def count(self, step: Sequence[tuple[list[Any], dict[str, Any]]]) -> None:
        super().count(step)
        self._items = sum(gather(sum(int(self.items(batch)) for _, batch in step)))

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, None

    def shared(self, loss: Tensor, items: Tensor) -> Tensor:
        """The loss of a microbatch with so many items, as the Trainer has to be given it."""
        divided_by = self.current_gradient_accumulation_steps * world_size()
        return loss * (items / self._items) * divided_by


def _alike(microbatches: list[list[Any]], length: Callable[[Any], int]) -> list[list[Any]]:
    """The same rows in as many and as large ones, the longest first: what does not fit into memory
    shows at once."""
    if len(microbatches) == 1:
        return microbatches
    rows = iter(sorted(chain.from_iterable(microbatches), key=length, reverse=True))
    return [list(islice(rows, len(each))) for each in microbatches]


def _sent(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """On its way to the device: a copy from memory that is not pinned would wait for all work that
    the GPU has been given."""
    if device.type != "cuda":
        return batch
    return {
        name: value.pin_memory().to(device, non_blocking=True)
        if isinstance(value, Tensor)
        else value
        for name, value in batch.items()
    }
