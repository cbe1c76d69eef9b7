"""Log-probabilities of given tokens, and the entropy of the distribution they were drawn from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-softmax of the logits at the given tokens.

    Args:
        logits: [B, R, V]; entry r predicts ids[:, r], so the caller has already shifted.
        ids: [B, R] int64.

    Returns:
        [B, R] float32, in nats.
    """
    # Not logits[id] - logsumexp: the difference of two large numbers would lose its digits.
    return logits.float().log_softmax(dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, [..., V] -> [...]; a logit of -inf adds nothing."""
    logprobs = logits.float().log_softmax(dim=-1)
    probabilities = logprobs.exp()
    return -torch.where(probabilities > 0, probabilities * logprobs, 0.0).sum(dim=-1)


def by_chunk(function: Callable[..., Tensor], chunk: int, *tensors: Tensor) -> Tensor:
    """`function(*tensors)`, computed for `chunk` tokens at a time.

    What the function makes on its way, such as float32 copies of the logits, is then never larger
    than [chunk, V]. For a pass without gradients: with them every chunk's would be kept.

    Args:
        function: of tensors [N, ...], each token by itself, to [N].
        chunk: tokens a piece.
        tensors: [B, R, ...] each.

    Returns:
        [B, R].
    """
    pieces = zip(*(torch.split(tensor.flatten(0, 1), chunk) for tensor in tensors), strict=True)
    return torch.cat([function(*piece) for piece in pieces]).view(tensors[0].shape[:2])
