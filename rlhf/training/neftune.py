"""NEFTune (Jain et al. 2023, arXiv 2310.05914): noise on the embeddings while a model learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def noisy_embeddings(model: PreTrainedModel, alpha: float | None) -> Iterator[None]:
    """Inside, in training mode, each token's embedding gets noise, uniform within plus and minus
    alpha / sqrt(L x H), with L the real tokens of its own conversation and H the hidden size.

    transformers' hook has for L the width of the batch, which is a whole packed row or several: the
    noise would then depend on the packing, the microbatch and the attention kernel.

    model: plain; adapters that it has been given do not matter. alpha: None adds no noise.
    """
    if alpha is None:
        yield
        return
    noise = _Noise(alpha)
    # Around the trunk there may be wrappers that call `forward` past the hooks, as PEFT's does.
    hooks = (
        model.base_model.register_forward_pre_hook(noise.note_lengths, with_kwargs=True),
        model.get_input_embeddings().register_forward_hook(noise.add),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Noise:
    """The trunk knows how long conversations are, its embeddings where the noise belongs."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._lengths: Tensor | None = None

    def note_lengths(self, trunk: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._lengths = conversation_lengths(kwargs) if trunk.training else None

    def add(self, table: nn.Module, args: Any, embeddings: Tensor) -> Tensor:
        """embeddings: [B, T, H]"""
        if self._lengths is None:
            return embeddings
        bounds = self._alpha * (self._lengths * embeddings.shape[-1]).rsqrt()
        noise = torch.empty_like(embeddings).uniform_(-1, 1)
        return embeddings + noise * bounds[..., None].to(embeddings.dtype)


def conversation_lengths(batch: Mapping[str, Any]) -> Tensor:
    """[B, T] or, where a row is one conversation, [B, 1]: tokens of each token's own conversation,
    padding left out.

    batch: a trunk's arguments: input_ids [B, T], and what says where conversations end: the
    boundaries cu_seq_lens_q [S + 1] of a flat row, or an attention_mask [B, T], or position_ids
    [B, T] that start at 0 in each. Padding of packed rows is many conversations of one token.
    """
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if batch.get("cu_seq_lens_q") is not None:
        counts = batch["cu_seq_lens_q"].diff()
        # Told its size, it does not wait for the GPU.
        flat: Tensor = counts.repeat_interleave(counts, output_size=ids.numel())
        return flat[None]
    if mask is not None:
        lengths: Tensor = mask.sum(dim=1, keepdim=True).clamp(min=1)
        return lengths
    positions = batch.get("position_ids")
    if positions is None:
        return torch.full((len(ids), 1), ids.shape[1], device=ids.device)
    conversation = (positions.flatten() == 0).cumsum(0) - 1
    counts = torch.zeros_like(conversation)
    counts.scatter_add_(0, conversation, torch.ones_like(conversation))
    return counts[conversation].view(positions.shape)
