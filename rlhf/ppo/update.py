"""Experience to new weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf.config.schema import PPOSection
from rlhf.models.roles import Roles
from rlhf.ops.fused import fused
from rlhf.ops.kl import estimate
from rlhf.ops.logprobs import token_logprobs
from rlhf.ops.losses import clip_fraction, policy_loss, ratio_deviation, value_loss
from rlhf.ops.masking import masked_mean
from rlhf.ppo.batching import epoch_orders, microbatches
from rlhf.ppo.controllers import ScoreNormaliser
from rlhf.ppo.learner import Learner
from rlhf.ppo.pretraining import PretrainingMix
from rlhf.ppo.types import Experience
from rlhf.runtime.distributed import gather, is_main_process

Statistics = dict[str, float]
ACTOR_STATISTICS = ("policy_loss", "clip_fraction", "ratio_deviation", "update_kl")


class NonFinite(FloatingPointError):
    """A loss or a gradient was NaN or infinite; no optimiser has seen it."""


def update(
    roles: Roles,
    experience: Experience,
    section: PPOSection,
    *,
    actor: Learner | None,
    critic: Learner,
    normaliser: ScoreNormaliser,
    random_order: torch.Generator,
    dump: Path,
    mix: PretrainingMix | None = None,
) -> Statistics:
    """Go over the experience `epochs` times, with one optimiser step a minibatch.

    Args:
        roles: whose actor and critic learn.
        experience: of one iteration, B responses.
        section: epochs, sizes and clips.
        actor: None while the critic warms up.
        critic: always learns.
        normaliser: has the scale of the experience's rewards, to which values are brought.
        random_order: shuffles the epochs after the first.
        dump: where the minibatch goes if its loss or gradient is not finite.
        mix: text that the actor's steps learn from too.

    Returns:
        Means over the steps, 0 for the actor's while it waits. `ratio_deviation` is the first
        step's alone, `clip_fraction` that of the step where it is largest: in the first, whose
        ratios are all 1, it is 0, and a mean of two steps could not pass a half.

    Raises:
        NonFinite: a loss or a gradient is NaN or infinite.
    """
    steps: list[Statistics] = []
    widths = experience.sequences.widths(roles.width_unit)
    for order in epoch_orders(len(experience.scores), section.epochs, random_order):
        for rows in torch.split(order, section.minibatch):
            groups = microbatches(widths, rows, section.microbatch, section.microbatch_tokens)
            parts = [experience.take(group) for group in groups]
            tokens = int(experience.mask[rows].sum())
            found = _accumulate(roles, parts, tokens, section, actor, critic, normaliser)
            if mix:
                found["pretraining_loss"] = mix.backward(roles, actor) if actor else 0.0
            found["grad_norm"] = actor.clip_gradient() if actor else 0.0
            found["critic_grad_norm"] = critic.clip_gradient()
            if not all(map(math.isfinite, found.values())):
                _refuse(experience.take(rows), found, dump)
            if actor:
                actor.step()
            critic.step()
            steps.append(found)
    means = _weighted_sum(steps, [1 / len(steps)] * len(steps))
    largest = max(found["clip_fraction"] for found in steps)
    return {**means, "ratio_deviation": steps[0]["ratio_deviation"], "clip_fraction": largest}


def _accumulate(
    roles: Roles,
    parts: Sequence[Experience],
    tokens: int,
    section: PPOSection,
    actor: Learner | None,
    critic: Learner,
    normaliser: ScoreNormaliser,
) -> Statistics:
    """Backward passes of this process's parts of a minibatch; statistics are means over all of its
    tokens, the other processes' included.

    A part weighs as much as it has tokens, so that the gradient, once it is summed over the
    processes, is that of the mean over the minibatch's tokens, however it was cut.
    """
    counted: list[int] = torch.stack([part.mask.sum() for part in parts]).tolist()
    shares = [count / tokens for count in counted]
    found = []
    for part, share in zip(parts, shares, strict=True):
        statistics = dict.fromkeys(ACTOR_STATISTICS, part.mask.new_zeros((), dtype=torch.float32))
        if actor:
            loss, statistics = _actor_loss(roles, part, section)
            (share * loss).backward()  # type: ignore[no-untyped-call]
            actor.collect_gradient()
        loss = _critic_loss(roles, part, section, normaliser)
        (share * loss).backward()  # type: ignore[no-untyped-call]
        critic.collect_gradient()
        found.append({**statistics, "value_loss": loss.detach()})
    summed = gather(_weighted_sum(_numbers(found), shares))
    return _weighted_sum(summed, [1.0] * len(summed))


def _numbers(rows: Sequence[Mapping[str, Tensor]]) -> list[Statistics]:
    """Read once for all of them: to read one is to wait for the device."""
    names = list(rows[0])
    values = torch.stack([torch.stack([row[name].double() for name in names]) for row in rows])
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]


def _weighted_sum(rows: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    return {
        name: sum(weight * row[name] for weight, row in zip(weights, rows, strict=True))
        for name in rows[0]
    }


def _actor_loss(
    roles: Roles, part: Experience, section: PPOSection
) -> tuple[Tensor, dict[str, Tensor]]:
    sequences, mask = part.sequences, part.mask
    logits = roles.actor_logits(sequences.input_ids, sequences.attention_mask, mask.shape[1])
    logprobs = fused(token_logprobs, section.compile)(logits, sequences.response_ids)
    loss = policy_loss(logprobs, part.old_logprobs, part.advantages, mask, section.clip)
    with torch.no_grad():
        moved = estimate(part.old_logprobs, logprobs, "k3")
        return loss, {
            "policy_loss": loss.detach(),
            "clip_fraction": clip_fraction(logprobs, part.old_logprobs, mask, section.clip),
            "ratio_deviation": ratio_deviation(logprobs, part.old_logprobs, mask),
            "update_kl": masked_mean(moved, mask),
        }


def _critic_loss(
    roles: Roles, part: Experience, section: PPOSection, normaliser: ScoreNormaliser
) -> Tensor:
    sequences, mask = part.sequences, part.mask
    read = roles.values(sequences.input_ids, sequences.attention_mask, mask.shape[1] + 1)
    values = normaliser.rescale(sequences.states(read).float())
    return value_loss(values, part.old_values, part.returns, mask, section.value_clip)


def _refuse(minibatch: Experience, found: Statistics, dump: Path) -> NoReturn:
    """Save the minibatch that gave these statistics, and stop."""
    sequences = minibatch.sequences
    tensors = {
        "input_ids": sequences.input_ids,
        "attention_mask": sequences.attention_mask,
        **minibatch.tensors(),
    }
    if is_main_process():
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, dump)
    bad = ", ".join(f"{name} {value}" for name, value in found.items() if not math.isfinite(value))
    raise NonFinite(
        f"stopped before the optimiser step: {bad}; the minibatch is in {dump}. Lower the learning "
        "rate or the gradient clip, or look for NaN in the scores of that file"
    )
