"""The fast engine: our own decode loop over the model's cache interface."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.config.schema import SamplingSection
from rlhf.generation.cache import BufferCache
from rlhf.generation.sampler import choose
from rlhf.generation.stops import LOOK_EVERY, Stops
from rlhf.ops.logprobs import token_logprobs
from rlhf.ops.masking import positions

# Finished rows leave the cache once this share of it or less is still being written: dropping rows
# copies the cache, so it must not happen at every row's end.
COMPACT_BELOW = 0.8


def complete(
    model: PreTrainedModel,
    input_ids: Tensor,
    mask: Tensor,
    sampling: SamplingSection,
    *,
    ends: Tensor,
    pad_id: int,
    uniforms: Tensor,
    stops: Stops | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode one batch of prompts.

    Args:
        model: a causal LM in eval mode.
        input_ids: [B, P] left-padded prompts.
        mask: [B, P] boolean.
        sampling: length R, temperature and filters.
        ends: [E] the tokens that end a response.
        pad_id: fills a row after its end.
        uniforms: [B, R] numbers in [0, 1), one for every draw.
        stops: strings that end a response; it may run on for a few tokens after one.

    Returns:
        tokens [B, R'] and their logprobs [B, R'] under the unfiltered policy; R' <= R is the
        longest response. What follows a row's ending token is of no meaning.
    """
    batch, width = input_ids.shape
    limit = sampling.max_new_tokens
    tokens = input_ids.new_full((batch, limit), pad_id)
    logprobs = torch.zeros((batch, limit), device=input_ids.device)
    # A pad in the history would be penalised; the prompt's last token is in the history anyway.
    history = torch.cat([torch.where(mask, input_ids, input_ids[:, -1:]), tokens], dim=1)
    mask = torch.cat([mask, mask.new_ones(batch, limit)], dim=1)
    places = positions(mask)
    cache = BufferCache(model.config.num_hidden_layers, capacity=width + limit)
    rows = torch.arange(batch, device=input_ids.device)  # of the batch, still in the cache
    writing = torch.ones_like(rows, dtype=torch.bool)  # of those, not yet ended
    inputs, start = input_ids, 0
    for step in range(limit):
        end = width + step
        output = model(
            input_ids=inputs,
            attention_mask=mask[rows, :end],
            position_ids=places[rows, start:end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        chosen = choose(logits, sampling, uniforms[rows, step], history[rows, :end])
        tokens[rows, step] = history[rows, end] = chosen
        logprobs[rows, step] = token_logprobs(logits, chosen)
        writing &= ~torch.isin(chosen, ends)
        if stops is not None and step % LOOK_EVERY == LOOK_EVERY - 1:
            writing &= ~stops.reached(tokens[rows], [step + 1] * len(rows))
        left = int(writing.sum())
        if left == 0:
            return tokens[:, : step + 1], logprobs[:, : step + 1]
        if left <= COMPACT_BELOW * len(rows):
            kept = writing.nonzero().squeeze(1)
            cache.keep(kept)
            rows, chosen, writing = rows[kept], chosen[kept], writing[kept]
        inputs, start = chosen[:, None], end
    return tokens, logprobs
