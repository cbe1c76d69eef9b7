"""The metrics of an iteration that do not depend on the update."""

from __future__ import annotations

from statistics import fmean

from rlhf.ops.advantages import explained_variance
from rlhf.ops.kl import estimate, response_mean
from rlhf.ops.masking import masked_mean
from rlhf.ppo.monitors import repetition
from rlhf.ppo.types import Experience, Rollout


def measure(rollout: Rollout, experience: Experience) -> dict[str, float]:
    """Means over the rollout batch.

    score: raw, of the reward model. reward: a response's rewards summed, penalties included.
    kl: against the reference, nats a response, by k3 whatever the penalty's estimator.
    response_length: tokens. entropy: nats a token. eos_rate: share of responses not cut off.
    engine_gap: largest difference between the engine's logprobs and the training forward's.
    """
    mask = experience.mask
    kl = estimate(experience.old_logprobs, experience.ref_logprobs, "k3")
    gap = (rollout.engine_logprobs - experience.old_logprobs).abs()[mask].max()
    explained = explained_variance(experience.old_values, experience.returns, mask)
    return {
        "score": experience.scores.mean().item(),
        "reward": experience.rewards.sum(dim=1).mean().item(),
        "kl": response_mean(kl, mask).item(),
        "response_length": mask.sum(dim=1).float().mean().item(),
        "entropy": masked_mean(experience.entropy, mask).item(),
        "eos_rate": rollout.ended.float().mean().item(),
        "repetition": fmean(repetition(c.token_ids) for c in rollout.completions),
        "explained_variance": explained.item(),
        "engine_gap": gap.item(),
    }
