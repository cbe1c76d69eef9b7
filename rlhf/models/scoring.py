"""Scores of a reward model: over many sequences, and over several responses to each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rlhf.models.baichuan.trunk import reads_end_to_end
from rlhf.models.head_loss import computing_type
from rlhf.ops.masking import positions
from rlhf.ops.padding import pad_right

ROUNDED = 256
"""Lengths that kernels are told are multiples of it."""


@contextmanager
def scoring(model: Any) -> Iterator[None]:
    """In evaluation mode and without gradients; the mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def score_responses(
    model: Any, sequences: Sequence[Sequence[int]], pad_id: int, batch_size: int
) -> list[float]:
    """One score a sequence, in the order given.

    Args:
        model: a reward model, plain or adapted; left in the mode it is in.
        sequences: token ids of prompt and response.
        pad_id: fills up a batch.
        batch_size: sequences at once; those of like length go together, so little is padding.
    """
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]), reverse=True)
    scores = [0.0] * len(sequences)
    with scoring(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = pad_right([sequences[index] for index in chosen], pad_id)
            logits = model(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                use_cache=False,
            ).logits
            for index, score in zip(chosen, logits.squeeze(-1).float().tolist(), strict=True):
                scores[index] = score
    return scores


def separate_scores(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Every response's score, each encoded with its own copy of the prompt.

    Args:
        model: a reward model, plain or adapted.
        input_ids: [N, K, T] prompt and response, right-padded.
        attention_mask: boolean [N, K, T]; a row without a real token only fills up K.

    Returns:
        [N, K] float32, 0 for the rows that fill up: those are not run.
    """
    real = attention_mask.any(dim=2)
    logits = model(
        input_ids=input_ids[real], attention_mask=attention_mask[real], use_cache=False
    ).logits
    return _placed(logits, real)


def shared_prompt_scores(
    model: Any, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor
) -> Tensor:
    """As `separate_scores`, with each prompt encoded once for its K responses, gradients included.

    The prompt's keys and values are computed once and handed to every response. Prompts are padded
    on the left, so that a response follows its prompt without a gap: ALiBi counts columns.

    Args:
        model: not one with gradient checkpointing at work, which keeps no keys and values.
        prompt_lengths: [N] int64, how many first tokens a prompt's K rows have in common; every
            row has one more at least.
    """
    if not prompt_lengths.any():
        return separate_scores(model, input_ids, attention_mask)
    if reads_end_to_end(model, computing_type(next(model.parameters()))):
        return one_row_scores(model, input_ids, attention_mask, prompt_lengths)
    real = attention_mask.any(dim=2)
    owner = real.nonzero()[:, 0]  # the prompt of every response, [M]
    # A prompt's first response is never padding.
    prompts, prompt_mask = _columns(
        input_ids[:, 0], prompt_lengths - prompt_lengths.max(), prompt_lengths
    )
    lengths = attention_mask[real].sum(dim=1)
    responses, response_mask = _columns(input_ids[real], prompt_lengths[owner], lengths)
    cache = DynamicCache()
    model(
        input_ids=prompts,
        attention_mask=prompt_mask,
        position_ids=positions(prompt_mask),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_select_indices(owner)
    mask = torch.cat([prompt_mask[owner], response_mask], dim=1)
    logits = model(
        input_ids=responses,
        attention_mask=mask,
        position_ids=positions(mask)[:, prompts.shape[1] :],
        past_key_values=cache,
        use_cache=True,
    ).logits
    return _placed(logits, real)


def one_row_scores(
    model: Any, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor
) -> Tensor:
    """As `shared_prompt_scores`, in one pass over one row without padding: first the prompts, then
    every response, whose attention reads its prompt's keys where they are.

    model: one whose trunk keeps sequences in one row apart.
    """
    real = attention_mask.any(dim=2)
    owner = real.nonzero()[:, 0]
    rows, lengths = input_ids[real], attention_mask[real].sum(dim=1)
    column = torch.arange(rows.shape[1], device=rows.device)
    of_prompt = column < prompt_lengths[:, None]  # [N, T]
    shared, inside = column < prompt_lengths[owner, None], column < lengths[:, None]  # [M, T]
    own = inside & ~shared
    # Where each prompt and each response begins in the row, and the keys of every response.
    start = _starts(prompt_lengths)
    own_start = start[-1] + _starts(own.sum(dim=1))
    place = torch.where(
        shared, start[owner, None], own_start[:-1, None] - prompt_lengths[owner, None]
    )
    order = torch.cat([torch.arange(int(start[-1]), device=rows.device), (place + column)[inside]])
    key_start = start[-1] + _starts(lengths)
    logits = model(
        input_ids=torch.cat([input_ids[:, 0][of_prompt], rows[own]])[None],
        position_ids=torch.cat(
            [column.expand_as(of_prompt)[of_prompt], column.expand_as(own)[own]]
        )[None],
        cu_seq_lens_q=torch.cat([start, own_start[1:]]).int(),
        cu_seq_lens_k=torch.cat([start, key_start[1:]]).int(),
        max_length_q=_at_least(prompt_lengths.max(), own.sum(dim=1).max()),
        max_length_k=_at_least(lengths.max()),
        key_order=order,
        use_cache=False,
    ).logits
    return _placed(logits[len(prompt_lengths) :], real)


def _starts(lengths: Tensor) -> Tensor:
    """lengths: [S] -> [S + 1], where each begins when they lie end to end, and the end."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _at_least(*lengths: Tensor) -> int:
    """The longest, rounded up: a compiled block is made anew for every number."""
    return -(-max(int(length) for length in lengths) // ROUNDED) * ROUNDED


def _columns(rows: Tensor, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Columns start to stop of each of B rows [B, T], and the mask of those that a row has.

    start, stop: [B]; a start below 0 puts padding on the left, a stop before the longest one's on
    the right.
    """
    width = int((stop - start).max())
    index = start[:, None] + torch.arange(width, device=rows.device)
    mask = (index >= 0) & (index < stop[:, None])
    return rows.gather(1, index.clamp(0, rows.shape[1] - 1)), mask


def _placed(logits: Tensor, real: Tensor) -> Tensor:
    """logits: [M, 1] of the rows that `real` [N, K] keeps -> [N, K]."""
    scores = torch.zeros(real.shape, device=logits.device)
    return scores.masked_scatter(real, logits.squeeze(-1).float())
