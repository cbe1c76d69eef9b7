"""The PPO loop: prompts -> Rollout -> Experience -> update -> controllers -> log -> checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch import Tensor

from rlhf.config.schema import PPOSection
from rlhf.models.roles import Roles
from rlhf.ppo.batching import generator, passes
from rlhf.ppo.controllers import ScoreStatistics
from rlhf.ppo.experience import make_experience
from rlhf.ppo.flops import iteration_flops
from rlhf.ppo.measure import measure
from rlhf.ppo.monitors import Monitor, check
from rlhf.ppo.pretraining import PretrainingMix, pretraining_mix
from rlhf.ppo.rollout import fitting, sample, warn_of_another_policy
from rlhf.ppo.state import Progress, TrainingState
from rlhf.ppo.update import update
from rlhf.runtime.files import CHECKPOINTS
from rlhf.runtime.metrics import MetricsLog

REFUSED = "refused_minibatch.safetensors"


@dataclass(frozen=True)
class PPOSummary:
    """What a run came to.

    score_*, kl_last, response_length_*: means over the first and the last twentieth of the
        iterations; scores raw, KL in nats a response (k3), lengths in tokens.
    flops: by the rule of `rlhf.ppo.flops`.
    prompts_dropped: those longer than the limit.
    """

    iterations: int
    score_first: float
    score_last: float
    kl_last: float
    response_length_first: float
    response_length_last: float
    flops: float
    prompts_dropped: int


@dataclass(frozen=True)
class Trained:
    """averaged_actor: the moving average of the actor's weights, None unless one was asked for."""

    summary: PPOSummary
    averaged_actor: dict[str, Tensor] | None


def train(
    roles: Roles,
    prompts: Sequence[Sequence[int]],
    section: PPOSection,
    *,
    score_statistics: ScoreStatistics,
    output_dir: Path,
    seed: int,
    metrics: MetricsLog,
    pretraining: Sequence[Sequence[int]] = (),
    on_iteration: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Trained:
    """Train actor and critic in place, going on from the newest checkpoint in `output_dir`.

    Args:
        roles: the four models.
        prompts: lists of token ids, each ending where the answer begins.
        section: the config's `ppo`.
        score_statistics: mean and standard deviation of the reward model's scores, None if unknown.
        output_dir: for `checkpoints/`, and for the minibatch of a step that was refused.
        seed: of prompt order, sampling and minibatches.
        metrics: takes a row an iteration, with the number of alarms that are on.
        pretraining: token ids of the texts that `section.pretraining` mixes in.
        on_iteration: called with the iterations done, those in all, and what a progress bar shows.

    Raises:
        ValueError: no prompt fits, or the score statistics are missing.
        NonFinite: a loss or gradient is NaN or infinite; the optimiser has not seen it.
        Stopped: an alarm went off whose action is `stop`.
    """
    kept = fitting(prompts, section.max_prompt_tokens)
    warn_of_another_policy(section.sampling)
    mix = pretraining_mix(pretraining, section, seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    state = TrainingState.start(roles, section, score_statistics).resume(output_dir / CHECKPOINTS)
    if section.gradient_checkpointing:
        roles.enable_gradient_checkpointing()
    monitor = Monitor(section.monitors)
    fingerprint = roles.frozen_fingerprint()
    while state.progress.iteration < section.iterations:
        row = _iterate(state, kept, section, seed, mix, output_dir / REFUSED)
        alarms = check(row, section.monitors)
        done = state.progress.iteration
        metrics.log(done - 1, {**row, "alarms": len(alarms)})
        if done % section.checkpoint_every == 0 or done == section.iterations:
            state.save(output_dir / CHECKPOINTS, keep=section.keep_checkpoints)
        if on_iteration:
            shown = {name: row[name] for name in ("score", "kl", "response_length")}
            on_iteration(done, section.iterations, shown)
        monitor.watch(done, alarms)
    assert roles.frozen_fingerprint() == fingerprint, "reference or reward model has changed"
    return Trained(
        _summary(state.progress, dropped=len(prompts) - len(kept)), state.averaged_actor()
    )


def _iterate(
    state: TrainingState,
    prompts: Sequence[Sequence[int]],
    section: PPOSection,
    seed: int,
    mix: PretrainingMix | None,
    refused: Path,
) -> dict[str, float]:
    """One iteration; its row of metrics."""
    roles, iteration = state.roles, state.progress.iteration
    train_actor = iteration >= section.critic_warmup
    chosen = passes(len(prompts), section.rollout_batch, seed, iteration)
    rollout = sample(
        roles, [prompts[i] for i in chosen], section, generator(seed, "sampling", iteration)
    )
    kl_coef = state.kl.coefficient(iteration)
    experience = make_experience(
        roles, rollout, section, kl_coef=kl_coef, normaliser=state.normaliser
    )
    learned = update(
        roles,
        experience,
        section,
        actor=state.actor if train_actor else None,
        critic=state.critic,
        random_order=generator(seed, "minibatches", iteration),
        dump=refused,
        mix=mix,
    )
    row = {**measure(rollout, experience), "kl_coef": kl_coef, **learned}
    if train_actor:  # until then the actor is the reference, and a KL of 0 says nothing
        state.kl.observe(row["kl"], section.episodes)
    with roles.generating() as model:
        parameters = model.num_parameters(exclude_embeddings=True)
    tokens = int(rollout.sequences.lengths.sum())
    state.progress.add(row, iteration_flops(parameters, tokens, section, train_actor=train_actor))
    return row


def _summary(progress: Progress, dropped: int) -> PPOSummary:
    window = max(1, progress.iteration // 20)
    return PPOSummary(
        iterations=progress.iteration,
        score_first=fmean(progress.scores[:window]),
        score_last=fmean(progress.scores[-window:]),
        kl_last=fmean(progress.kls[-window:]),
        response_length_first=fmean(progress.lengths[:window]),
        response_length_last=fmean(progress.lengths[-window:]),
        flops=progress.flops,
        prompts_dropped=dropped,
    )
