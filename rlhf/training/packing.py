"""Several conversations in one row, each blind to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl.data_utils import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from rlhf.ops.padding import pad_right

Collator = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


def pack(data: Dataset, max_length: int) -> Dataset:
    """Rows of at most `max_length` tokens, filled best-fit decreasing.

    The column `seq_lengths` holds the lengths of the conversations in a row.
    """
    return pack_dataset(data.select_columns(["input_ids", "labels"]), max_length, strategy="bfd")


def packed_collator(model: PreTrainedModel, pad_id: int) -> Collator:
    """The batch layout in which the model's attention keeps packed conversations apart.

    FlashAttention reads the boundaries of one flat row. The other kinds build a mask, whose cost is
    the square of the row's length, so for them rows stay rows.
    """
    if str(model.config._attn_implementation).startswith("flash"):
        return DataCollatorForLanguageModeling(pad_id, padding_free=True)
    return PackedRows(pad_id)


@dataclass(frozen=True)
class PackedRows:
    """Batches packed rows as they are, with position ids that start at 0 in each conversation.

    There is no attention mask: transformers looks for packing in the position ids only without one.
    Padding at the end of a row is one more conversation, without labels.
    """

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """rows: N with input_ids, labels and seq_lengths. Returns tensors [N, T]."""
        ids, real = pad_right([row["input_ids"] for row in rows], self.pad_id)
        labels, _ = pad_right([row["labels"] for row in rows], -100)
        padding = (~real).sum(dim=1).tolist()
        positions = [
            [p for n in (*row["seq_lengths"], count) for p in range(n)]
            for row, count in zip(rows, padding, strict=True)
        ]
        position_ids = torch.tensor(positions)
        # A conversation's first token is not predicted from the last one of its neighbour.
        masked = labels.masked_fill(position_ids == 0, -100)
        return {"input_ids": ids, "labels": masked, "position_ids": position_ids}
