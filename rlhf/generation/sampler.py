"""From logits to the next token: penalty, temperature, top-k, top-p, draw."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf.config.schema import SamplingSection

BLOCK = 256
"""Tokens that a sum runs over at once: of a whole vocabulary, a GPU takes long for it, and torch
2.11's compiler fails on some. Both vocabularies of the family are multiples of it."""


def choose(logits: Tensor, sampling: SamplingSection, uniforms: Tensor, history: Tensor) -> Tensor:
    """The next token of every row.

    Args:
        logits: [B, V] float32, raw.
        sampling: how to sample; temperature 0 takes the most likely token.
        uniforms: [B] in [0, 1), one number a draw.
        history: [B, T] the tokens of each row so far, which a repetition penalty makes less likely.

    Returns:
        [B] int64.
    """
    if sampling.repetition_penalty != 1:
        logits = penalise(logits, history, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    if sampling.top_k:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    return draw(logits.softmax(dim=-1), uniforms)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Invert the cumulative distribution: [B, V] and [B] -> [B].

    One number a token, so that a row's tokens depend on its own numbers only, not on the rows
    beside it.
    """
    # First the block of tokens, then the token in it.
    blocks = _blocks(probabilities)
    # float64, or the tail of a large vocabulary would drown in the rounding of the sum.
    cumulative = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    targets = uniforms.double()[:, None] * cumulative[:, -1:]
    block = _first_above(cumulative, targets)
    within = blocks.gather(1, block[:, :, None].expand(-1, 1, blocks.shape[2])).squeeze(1)
    inside = within.cumsum(dim=-1, dtype=torch.float64)
    start = cumulative.gather(1, block) - inside[:, -1:]
    token = block * blocks.shape[2] + _first_above(inside, targets - start)
    return token.squeeze(1).clamp(max=probabilities.shape[1] - 1)


def _blocks(values: Tensor) -> Tensor:
    """[B, V] -> [B, N, BLOCK], zeros behind the last value."""
    rows, vocabulary = values.shape
    size = min(BLOCK, vocabulary)
    return pad(values, (0, -vocabulary % size)).reshape(rows, -1, size)


def _cumulative(values: Tensor) -> Tensor:
    """[B, V] -> [B, V], each value and all before it."""
    inside = _blocks(values).cumsum(dim=-1)
    sums = inside[:, :, -1]
    before = sums.cumsum(dim=-1) - sums
    return (inside + before[:, :, None]).flatten(1)[:, : values.shape[1]]


def _first_above(cumulative: Tensor, targets: Tensor) -> Tensor:
    """Where [B, N], which grows, first exceeds [B, 1]: an entry that adds something. -> [B, 1]"""
    found = torch.searchsorted(cumulative, targets, right=True)
    return found.clamp(max=cumulative.shape[1] - 1)


def penalise(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Make the tokens of history [B, T] less likely in logits [B, V] (Keskar et al. 2019)."""
    said = logits.gather(-1, history)
    return logits.scatter(-1, history, torch.where(said > 0, said / penalty, said * penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """-inf for all but the k largest logits of every row [B, V]; ties with the k-th stay."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """-inf outside the nucleus (Holtzman et al. 2020) of every row [B, V].

    The nucleus is the shortest list of most likely tokens whose probabilities reach p.
    """
    ordered, indices = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = _cumulative(probabilities) - probabilities
    ordered = ordered.masked_fill(before >= p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, indices, ordered)
