"""Several conversations in one row, each blind to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl.data_utils import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from rlhf.models.baichuan.trunk import reads_end_to_end
from rlhf.ops.padding import pad_right

Collator = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


def pack(data: Dataset, max_length: int) -> Dataset:
    """Rows of at most `max_length` tokens, filled best-fit decreasing.

    The column `seq_lengths` holds the lengths of the conversations in a row.
    """
    return pack_dataset(data.select_columns(["input_ids", "labels"]), max_length, strategy="bfd")


def packed_collator(model: PreTrainedModel, pad_id: int, longest: int | None = None) -> Collator:
    """The batch layout in which the model's attention keeps packed conversations apart.

    Kernels that read the boundaries take one flat row. The other kinds build a mask, whose cost is
    the square of the row's length, so for them rows stay rows.

    longest: at least the tokens of the longest conversation; None: PyTorch's own kernel is not
        used.
    """
    kind = model.config._attn_implementation
    if str(kind).startswith("flash"):
        return DataCollatorForLanguageModeling(pad_id, padding_free=True)
    if longest and reads_end_to_end(model, model.dtype):
        return FlatRows(longest)
    return PackedRows(pad_id)


@dataclass(frozen=True)
class FlatRows:
    """Batches packed rows as one, without padding, and says where each conversation begins.

    longest: at least the tokens of the longest one; the same for every batch, so that a compiled
    block stays as it is.
    """

    longest: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """rows: with input_ids, labels and seq_lengths, N tokens together. Returns tensors [1, N],
        the boundaries [S + 1], and `longest`."""
        ids, labels = (
            torch.cat([torch.as_tensor(np.array(row[name])) for row in rows])[None]
            for name in ("input_ids", "labels")
        )
        lengths = [length for row in rows for length in row["seq_lengths"]]
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
        return {
            "input_ids": ids,
            "labels": labels.masked_fill(positions == 0, -100),
            "position_ids": positions,
            **{f"cu_seq_lens_{side}": boundaries for side in "qk"},
            **{f"max_length_{side}": self.longest for side in "qk"},
        }


@dataclass(frozen=True)
class PackedRows:
    """Batches packed rows as they are, with position ids that start at 0 in each conversation.

    There is no attention mask: transformers looks for packing in the position ids only without one.
    Of the padding at the end of a row every token is a conversation of its own, without labels.
    """

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """rows: N with input_ids, labels and seq_lengths. Returns tensors [N, T]."""
        ids, real = pad_right([row["input_ids"] for row in rows], self.pad_id)
        labels, _ = pad_right([row["labels"] for row in rows], -100)
        padding = (~real).sum(dim=1).tolist()
        positions = [
            [p for n in row["seq_lengths"] for p in range(n)] + [0] * count
            for row, count in zip(rows, padding, strict=True)
        ]
        position_ids = torch.tensor(positions)
        # A conversation's first token is not predicted from the last one of its neighbour.
        masked = labels.masked_fill(position_ids == 0, -100)
        return {"input_ids": ids, "labels": masked, "position_ids": position_ids}
