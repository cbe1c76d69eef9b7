"""The metrics of an iteration that do not depend on the update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from statistics import fmean, pstdev

from rlhf.generation import Completion
from rlhf.ops.advantages import explained_variance
from rlhf.ops.correlation import pearson
from rlhf.ops.kl import estimate, response_mean
from rlhf.ops.masking import masked_mean
from rlhf.ppo.types import Experience, Rollout
from rlhf.runtime.distributed import gather, own_part

Judge = Callable[[Sequence[int], Sequence[Completion]], Sequence[float]]
"""Qualities of answers, given the numbers of their prompts in the order that `train` got them."""

START = ("score", "score_deviation", "response_length", "judge", "judge_deviation")
"""What later iterations are compared with."""


def measure(rollout: Rollout, experience: Experience) -> dict[str, float]:
    """Means over the rollout batch.

    score: raw, of the reward model; score_deviation: its standard deviation. reward: a response's
    rewards summed, penalties included. kl: against the reference, nats a response, by k3 whatever
    the penalty's estimator. response_length: tokens. length_correlation: of score and length.
    entropy: nats a token. eos_rate: share of responses not cut off. engine_gap: mean
    difference between the engine's logprobs and the training forward's, nats a token, where that
    has computed them; engine_gap_largest: of one token.
    """
    mask = experience.mask
    lengths = mask.sum(dim=1)
    kl = estimate(experience.old_logprobs, experience.ref_logprobs, "k3")
    gaps = (rollout.engine_logprobs - experience.old_logprobs).abs()[mask]
    explained = explained_variance(experience.old_values, experience.returns, mask)
    return {
        "score": experience.scores.mean().item(),
        "score_deviation": experience.scores.std(correction=0).item(),
        "reward": experience.rewards.sum(dim=1).mean().item(),
        "kl": response_mean(kl, mask).item(),
        "response_length": lengths.float().mean().item(),
        "length_correlation": pearson(experience.scores, lengths).item(),
        "entropy": masked_mean(experience.entropy, mask).item(),
        "eos_rate": rollout.ended.float().mean().item(),
        "repetition": fmean(repetition(c.token_ids) for c in rollout.completions),
        "explained_variance": explained.item(),
        "engine_gap": gaps.mean().item(),
        "engine_gap_largest": gaps.max().item(),
    }


def judged(judge: Judge, prompts: Sequence[int], rollout: Rollout) -> dict[str, float]:
    """judge, judge_deviation: mean and standard deviation of the judge's qualities."""
    own = own_part(len(prompts))
    found = judge(prompts[own], rollout.completions[own])
    qualities = [*chain.from_iterable(gather(found))]
    return {"judge": fmean(qualities), "judge_deviation": pstdev(qualities)}


def since_start(row: Mapping[str, float], start: Mapping[str, float]) -> dict[str, float]:
    """An iteration's row against the first one's, when the actor was the SFT model still.

    score_gain, judge_gain: in standard deviations of the first iteration's responses. judge_gap:
    the first less the second, the gain that the judge does not see. response_growth: a ratio.
    """
    gains = {
        f"{name}_gain": (row[name] - start[name]) / (start[f"{name}_deviation"] or 1.0)
        for name in ("score", "judge")
        if name in row
    }
    if "judge_gain" in gains:
        gains["judge_gap"] = gains["score_gain"] - gains["judge_gain"]
    return {**gains, "response_growth": row["response_length"] / start["response_length"]}


def repetition(token_ids: Sequence[int], n: int = 3) -> float:
    """Share of a response's n-grams that it holds already; 0 for one shorter than n tokens."""
    grams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
