"""Responses to what the update learns from: the four roles read them once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rlhf.config.schema import PPOSection
from rlhf.models.roles import Roles
from rlhf.ops.advantages import gae, token_rewards
from rlhf.ops.fused import fused
from rlhf.ops.kl import estimate
from rlhf.ops.logprobs import by_chunk, entropy, token_logprobs
from rlhf.ops.masking import masked_whiten
from rlhf.ppo.batching import microbatches
from rlhf.ppo.controllers import ScoreNormaliser
from rlhf.ppo.types import Experience, Rollout
from rlhf.runtime.distributed import all_sum

CHUNK = 1024
"""Tokens whose distributions are read at once: in float32 half a gibibyte of 128 thousand words."""


def make_experience(
    roles: Roles,
    rollout: Rollout,
    section: PPOSection,
    *,
    kl_coef: float,
    normaliser: ScoreNormaliser,
    recompute: bool = True,
) -> Experience:
    """Logprobs, values and scores of a rollout, and from them rewards, advantages and returns.

    The critic began as the reward model, so that its values are brought to the rewards' scale as
    the scores are: a ranking loss leaves the scores' mean open, and a critic that far from the
    returns would first teach the actor about the ends of its answers, from where nothing but the
    difference is left.

    recompute: old_logprobs come from the training forward, in the very groups of the first epoch,
        so that the first ratio is exactly 1. Without it they are the engine's, which saves a pass,
        and what stands for the entropy is its unbiased estimate by the sampled tokens.
    """
    sequences = rollout.sequences
    mask = sequences.response_mask
    read = _read(roles, rollout, section, recompute=recompute)
    if not recompute:
        read["old_logprobs"] = rollout.engine_logprobs * mask
        read["entropy"] = -read["old_logprobs"]
    normalised = normaliser.normalise(read["scores"])  # first: a running scale takes them in
    read["old_values"] = normaliser.rescale(read["old_values"]) * mask
    kl = estimate(read["old_logprobs"], read["ref_logprobs"], section.kl.estimator)
    missing_eos = section.score.missing_eos_penalty * (~rollout.ended).float()
    too_long = section.score.length_penalty * mask.sum(dim=1).float()
    shaped = normalised - missing_eos - too_long
    rewards = token_rewards(shaped, kl, mask, kl_coef)
    advantages, returns = gae(rewards, read["old_values"], mask, section.gamma, section.lam)
    if section.whiten_advantages:
        advantages = masked_whiten(advantages, mask)
    return Experience(
        sequences=sequences, kl=kl, rewards=rewards, advantages=advantages, returns=returns, **read
    )


@torch.no_grad()
def _read(
    roles: Roles, rollout: Rollout, section: PPOSection, *, recompute: bool
) -> dict[str, Tensor]:
    """old_logprobs, ref_logprobs, entropy, old_values [B, R] and scores [B]; each process reads its
    rows, and all have the whole."""
    sequences, logprobs = rollout.sequences, fused(token_logprobs, section.compile)
    mask = sequences.response_mask
    names = ("old_logprobs", "ref_logprobs", "entropy", "old_values")
    read = {name: torch.zeros_like(mask, dtype=torch.float32) for name in names}
    read["scores"] = torch.zeros_like(mask[:, 0], dtype=torch.float32)
    widths = sequences.widths(roles.width_unit)
    groups = [rows.to(mask.device) for rows in _groups(widths, section)] if recompute else []
    # All are cut first: to know their lengths is to wait for the device.
    for rows, part in zip(groups, [sequences.take(rows) for rows in groups], strict=True):
        keep = part.response_mask.shape[1]
        logits = roles.actor_logits(part.input_ids, part.attention_mask, keep)
        ids = part.response_ids
        read["old_logprobs"][rows, :keep] = by_chunk(logprobs, CHUNK, logits, ids)
        read["entropy"][rows, :keep] = by_chunk(entropy, CHUNK, logits)
    together = section.scoring_microbatch
    groups = [rows.to(mask.device) for rows in _groups(widths, section, together)]
    parts = [(rows, sequences.take(rows), rollout.scored.take(rows)) for rows in groups]
    for rows, part, answer in parts:
        keep = part.response_mask.shape[1]
        logits = roles.reference_logits(part.input_ids, part.attention_mask, keep)
        ids = part.response_ids
        read["ref_logprobs"][rows, :keep] = by_chunk(logprobs, CHUNK, logits, ids)
        values = roles.values(part.input_ids, part.attention_mask, keep + 1)
        read["old_values"][rows, :keep] = part.states(values).float()
        read["scores"][rows] = roles.scores(answer.input_ids, answer.attention_mask).float()
    return {name: all_sum(tensor) for name, tensor in read.items()}  # 0 but in one's own rows


def _groups(widths: Tensor, section: PPOSection, together: int | None = None) -> Iterator[Tensor]:
    """Rows of this process that are read at once: `together` of them, or those of the update.

    widths: [B, C] as for `microbatches`.
    """
    every = torch.arange(len(widths))
    if together is not None:
        yield from microbatches(widths, every, together)
        return
    size, tokens = section.microbatch, section.microbatch_tokens
    for minibatch in torch.split(every, section.minibatch):
        yield from microbatches(widths, minibatch, size, tokens)
