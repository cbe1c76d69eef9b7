"""The losses of PPO and of the reward model, each a mean over what is kept, and statistics."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rlhf.ops.masking import masked_mean
from rlhf.ops.ranking import comparable, mean_over_prompts


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), as a loss.

    Args:
        logprobs: [B, R] of the policy being trained.
        old_logprobs: [B, R] fixed at rollout.
        advantages: [B, R].
        mask: boolean [B, R].
        clip: half-width of the band around ratio 1.

    Returns:
        A scalar, the mean over kept tokens.
    """
    ratio = _ratio(logprobs, old_logprobs, mask)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * clipped), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> Tensor:
    """Half the squared error of the critic, the worse of the plain and the clipped estimate.

    Args:
        values: [B, R] of the critic being trained.
        old_values: [B, R] fixed at rollout.
        returns: [B, R].
        mask: boolean [B, R].
        clip: how far a value may move from its old one; None for no clipping.

    Returns:
        A scalar, the mean over kept tokens.
    """
    # Padding is taken out before the square, or a NaN there would reach the gradient.
    values, old_values = torch.where(mask, values, 0.0), torch.where(mask, old_values, 0.0)
    error = (values - returns).square()
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (clipped - returns).square())
    return 0.5 * masked_mean(error, mask)


def ranking_loss(
    scores: Tensor, ranks: Tensor, margins: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """InstructGPT's K-way loss (Ouyang et al. 2022, eq. 1): -log sigmoid(difference - margin).

    Args:
        scores: [N, K] of the K responses to each of N prompts.
        ranks: [N, K] int64; 1 is best, equal ranks tie and make no pair, 0 is padding.
        margins: [N, K, K]; [n, i, j] is asked of response i over response j; None for no margin.
        label_smoothing: e, the share of pairs taken to be the wrong way round. With d the
            difference less the margin, a pair loses -(1 - e) log sigmoid(d) - e log sigmoid(-d),
            which is least at sigmoid(d) = 1 - e ("conservative", as in cDPO: Mitchell 2023).

    Returns:
        A scalar: the mean over a prompt's pairs, then over the prompts that have one; 0, still
        with a gradient, when none has.
    """
    pairs = comparable(ranks)
    difference = scores.float()[:, :, None] - scores.float()[:, None, :]
    if margins is not None:
        difference = difference - margins
    difference = torch.where(pairs, difference, 0.0)
    losses = -functional.logsigmoid(difference)
    if label_smoothing:
        # -log sigmoid(-d) = d - log sigmoid(d)
        losses = losses + label_smoothing * difference
    return mean_over_prompts(losses, pairs)


def clip_fraction(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Share of kept tokens whose ratio left 1 - clip .. 1 + clip; shapes as in `policy_loss`."""
    return masked_mean((_ratio(logprobs, old_logprobs, mask) - 1).abs() > clip, mask)


def ratio_deviation(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean |ratio - 1| of the kept tokens; shapes as in `policy_loss`."""
    return masked_mean((_ratio(logprobs, old_logprobs, mask) - 1).abs(), mask)


def _ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    # Masked before exp: what stands in the padding may overflow, and its gradient must be zero.
    return torch.where(mask, logprobs - old_logprobs, 0.0).exp()
