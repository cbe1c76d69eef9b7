"""The held-out loss: a mean over tokens, however they are batched."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from rlhf.ops.logprobs import token_logprobs
from rlhf.runtime.distributed import in_order, own_turns


def token_mean_loss(
    model: Any, data: Dataset, pad_id: int, batch_size: int, chunk: int | None = None
) -> float:
    """Mean negative log-likelihood, in nats, over all labelled tokens; no mean of batch means.

    chunk: tokens whose logits exist at a time; None: a whole batch's.
    """
    rows = sorted(data, key=lambda row: len(row["input_ids"]), reverse=True)
    collate = DataCollatorForLanguageModeling(pad_id)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found = {}
        starts = range(0, len(rows), batch_size)
        for place, start in own_turns(starts):
            batch = collate(rows[start : start + batch_size])
            found[place] = _summed_loss(model, batch, chunk)
    model.train(was_training)
    total, count = 0.0, 0
    for loss, tokens in in_order(found):
        total += loss
        count += tokens
    return total / count


def _summed_loss(model: Any, batch: dict[str, Tensor], chunk: int | None) -> tuple[float, int]:
    """The loss summed over the labelled tokens, and how many these are."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    whole = batch.pop("labels")
    labels = whole[:, 1:]
    kept = labels != -100
    if chunk is not None:
        options = {"num_items_in_batch": 1, "z_loss_weight": 0.0, "loss_chunk": chunk}
        loss = model(**batch, labels=whole, use_cache=False, **options).loss
        return float(loss), int(kept.sum())
    losses = -token_logprobs(model(**batch, use_cache=False).logits[:, :-1], labels.clamp(min=0))
    return float(losses[kept].double().sum()), int(kept.sum())
