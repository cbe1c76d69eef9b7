"""What the losses over ranked responses are made of, and the alternatives to the K-way loss.

Shapes throughout: scores [N, K] of the K responses to each of N prompts; ranks [N, K] int64, 1 is
best, equal ranks tie, 0 is padding; margins [N, K, K], [n, i, j] asked of response i over j.
"""

from __future__ import annotations

import torch
from torch import Tensor


def comparable(ranks: Tensor) -> Tensor:
    """Boolean [N, K, K], True where response i ranks above j; ties and padding make no pair."""
    better, worse = ranks[:, :, None], ranks[:, None, :]
    return (better > 0) & (better < worse)


def mean_over_prompts(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of a prompt's kept entries, then of the prompts that have one.

    Args:
        x: [N, ...], finite also where it is not kept.
        mask: boolean, of x's shape.

    Returns:
        A scalar; 0, still with a gradient, when nothing is kept.
    """
    x, mask = x.flatten(1), mask.flatten(1)
    count = mask.sum(dim=1)
    per_prompt = torch.where(mask, x, 0.0).sum(dim=1) / count.clamp(min=1)
    return per_prompt.sum() / (count > 0).sum().clamp(min=1)


def plackett_luce_loss(scores: Tensor, ranks: Tensor, margins: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of a ranking as choices from best to worst (Plackett 1975; Luce 1959;
    ListMLE: Xia et al. 2008).

    Response i is chosen with probability exp(s_i) / (exp(s_i) + sum of exp(s_j) over all j that
    rank below it). Tied responses stand outside each other's sums: as in the K-way loss, a tie says
    nothing of the order in it. A margin is added to s_j, so that two responses give
    -log sigmoid(difference - margin), the K-way loss.

    Returns:
        A scalar: the mean over a prompt's choices (the worst rank is none), then over the prompts
        that have one; 0, still with a gradient, when none has.
    """
    pairs = comparable(ranks)
    scores = scores.float()
    behind = scores[:, None, :] - scores[:, :, None]
    if margins is not None:
        behind = behind + margins
    behind = torch.where(pairs, behind, -torch.inf)
    # The chosen response itself is exp(0), so the sum is never empty.
    losses = torch.cat([torch.zeros_like(behind[..., :1]), behind], dim=2).logsumexp(dim=2)
    return mean_over_prompts(losses, pairs.any(dim=2))


def centering_penalty(scores: Tensor, ranks: Tensor) -> Tensor:
    """Squared sum of a pair's two scores (Eisenstein et al. 2023, "Helping or herding?", arXiv
    2312.09244): a ranking leaves the mean score open, this holds it near zero.

    Returns:
        A scalar: the mean over a prompt's pairs, then over the prompts that have one.
    """
    pairs = comparable(ranks)
    sums = scores.float()[:, :, None] + scores.float()[:, None, :]
    # Taken out before the square, or a NaN in the padding would reach the gradient.
    return mean_over_prompts(torch.where(pairs, sums, 0.0).square(), pairs)


def separate_pairs(
    scores: Tensor, ranks: Tensor, margins: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Every pair as a prompt of its own: a mean over prompts then weighs all pairs alike.

    Returns:
        scores [M, 2], better first; their ranks [M, 2]; their margins [M, 2, 2], or None.
    """
    prompt, better, worse = comparable(ranks).nonzero(as_tuple=True)
    pairs = torch.stack([scores[prompt, better], scores[prompt, worse]], dim=1)
    order = torch.tensor([1, 2], device=ranks.device).expand(len(pairs), 2)
    if margins is None:
        return pairs, order, None
    asked = torch.zeros(len(pairs), 2, 2, dtype=margins.dtype, device=margins.device)
    asked[:, 0, 1] = margins[prompt, better, worse]
    return pairs, order, asked
