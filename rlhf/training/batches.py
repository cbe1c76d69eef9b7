"""Batches of transformers' Trainer that count every row once and every item alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerState

from rlhf.runtime.distributed import gather, rank, world_size


class EachOnce(ABC):
    """Goes before a Trainer: in every epoch each row counts once, however many processes there are.

    accelerate fills the last round of microbatches up with rows from the epoch's beginning. These
    are left out here; a microbatch of nothing else becomes one row without anything to learn.
    """

    accelerator: Any
    args: Any
    state: TrainerState
    data_collator: Any
    train_dataset: Any

    @abstractmethod
    def unlearn(self, batch: dict[str, Any]) -> None:
        """Take out of a batch what the loss is over."""

    def tokens(self, batch: dict[str, Any]) -> int:
        """Real tokens in a batch, which is still on the host: the Trainer's own count would wait
        for the GPU before every microbatch."""
        return int(batch["attention_mask"].sum())

    def get_train_dataloader(self) -> Any:
        trainer: Any = super()
        collator, self.data_collator = self.data_collator, list  # rows are put together later
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
        batches = map(self._own_rows, epoch_iterator)
        found, labels = trainer.get_batch_samples(batches, num_batches, device)
        self.count(found)
        return [_sent(batch, device) for batch in found], labels

    def count(self, batches: Sequence[dict[str, Any]]) -> None:
        """Take note of a step's batches, which are still on the host."""
        self.state.num_input_tokens_seen += sum(gather(sum(map(self.tokens, batches))))

    def _own_rows(self, rows: list[Any]) -> dict[str, Any]:
        at_once = self.args.per_device_train_batch_size
        left = len(self.train_dataset) % (at_once * world_size())
        last = self.accelerator.gradient_state.end_of_dataloader
        if world_size() == 1 or not last or not left:
            batch: dict[str, Any] = self.data_collator(rows)
            return batch
        mine = rows[: max(0, left - rank() * at_once)]
        batch = self.data_collator(mine or rows[:1])
        if not mine:
            self.unlearn(batch)
        # The tokens of the row that only fills up will be counted.
        self.state.num_input_tokens_seen -= sum(gather(0 if mine else self.tokens(batch)))
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

    def count(self, batches: Sequence[dict[str, Any]]) -> None:
        super().count(batches)
        self._items = sum(gather(sum(int(self.items(batch)) for batch in batches)))

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, None

    def shared(self, loss: Tensor, items: Tensor) -> Tensor:
        """The loss of a microbatch with so many items, as the Trainer has to be given it."""
        divided_by = self.current_gradient_accumulation_steps * world_size()
        return loss * (items / self._items) * divided_by


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
