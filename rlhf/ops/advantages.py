"""From scores to rewards, advantages and returns."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.ops.masking import is_last, masked_mean


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """KL penalty on every real token, the score on the last one (Ouyang et al. 2022, eq. 2).

    Args:
        scores: [B], one per response.
        kl: [B, R] per-token estimates, in nats.
        mask: boolean [B, R]; includes EOS, since the score lands there.
        kl_coef: reward per nat, taken off.

    Returns:
        [B, R] float32; 0 outside the mask.
    """
    penalty = torch.where(mask, -kl_coef * kl.float(), 0.0)
    return penalty + torch.where(is_last(mask), scores.float()[:, None], 0.0)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), not whitened.

    The episode ends with the row's last kept entry: nothing is bootstrapped beyond it. Padding,
    on either side, is stepped over.

    Args:
        rewards: [B, R].
        values: [B, R] critic estimates of the state before each token.
        mask: boolean [B, R].
        gamma: discount a token.
        lam: weight of longer estimates; 1 gives the reward-to-go minus the value.

    Returns:
        advantages [B, R] and returns [B, R] (advantages + values), float32; 0 outside the mask.
    """
    rewards, values = rewards.float(), torch.where(mask, values.float(), 0.0)
    advantage = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(advantage)
    columns = []
    for r in reversed(range(rewards.shape[1])):
        keep, value = mask[:, r], values[:, r]
        delta = rewards[:, r] + gamma * next_value - value
        advantage = torch.where(keep, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(keep, value, next_value)
        columns.append(advantage)
    advantages = torch.where(mask, torch.stack(columns[::-1], dim=1), 0.0)
    return advantages, advantages + values


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the kept tokens: 1 for a perfect critic.

    Args:
        values: [B, R].
        returns: [B, R].
        mask: boolean [B, R].

    Returns:
        A scalar; 0 where the returns do not vary.
    """
    total = _variance(returns, mask)
    unexplained = _variance(returns - values, mask)
    return torch.where(total > 0, 1 - unexplained / total, 0.0)


def _variance(x: Tensor, mask: Tensor) -> Tensor:
    return masked_mean((x - masked_mean(x, mask)).square(), mask)
