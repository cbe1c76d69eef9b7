"""The PPO loop: prompts -> Rollout -> Experience -> update -> controllers -> log -> checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch import Tensor

from rlhf.config.schema import PPOSection
from rlhf.generation import Completion
from rlhf.models.flops import iteration_flops
from rlhf.models.roles import Roles
from rlhf.ppo.batching import generator, passes
from rlhf.ppo.controllers import ScoreStatistics
from rlhf.ppo.experience import make_experience
from rlhf.ppo.measure import Judge, judged, measure, since_start
from rlhf.ppo.monitors import Monitor, check
from rlhf.ppo.pretraining import PretrainingMix, pretraining_mix
from rlhf.ppo.rollout import fitting, prompt_limit, sample, warn_of_another_policy
from rlhf.ppo.state import Progress, TrainingState
from rlhf.ppo.update import NonFinite, update
from rlhf.runtime.devices import keep_freed_memory
from rlhf.runtime.distributed import barrier, broadcast, gather
from rlhf.runtime.files import CHECKPOINTS
from rlhf.runtime.interrupt import held_interrupt
from rlhf.runtime.metrics import MetricsLog

REFUSED = "refused_minibatch.safetensors"
SHOWN = ("score", "kl", "response_length")
OnIteration = Callable[[int, int, dict[str, float]], None]
OnAnswers = Callable[[int, Sequence[int], Sequence[Completion], Sequence[float]], None]
"""Takes an iteration, the numbers of its prompts, its answers and their scores."""


@dataclass(frozen=True)
class PPOSummary:
    """What a run came to.

    score_*, kl_last, response_length_*: means over the first and the last twentieth of the
        iterations; scores raw, KL in nats a response (k3), lengths in tokens.
    flops: by the rule of `rlhf.models.flops`.
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
    judge: Judge | None = None,
    on_answers: OnAnswers | None = None,
    on_iteration: OnIteration | None = None,
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
        judge: watches every iteration's answers; the actor never learns from it.
        on_answers: sees every iteration's answers as they come.
        on_iteration: called with the iterations done, those in all, and what a progress bar shows.

    Raises:
        ValueError: no prompt fits, or the score statistics are missing.
        NonFinite: a loss or gradient is NaN or infinite; the optimiser has not seen it.
        Stopped: an alarm went off whose action is `stop`, or there were too many rollbacks.
        KeyboardInterrupt: Ctrl-C, after the iteration was finished and saved.
    """
    run = _Run(
        prompts=prompts,
        kept=fitting(prompts, prompt_limit(roles, section)),
        section=section,
        seed=seed,
        judge=judge,
        on_answers=on_answers,
        mix=pretraining_mix(pretraining, section, seed),
        output_dir=output_dir,
    )
    warn_of_another_policy(section.sampling)
    if roles.actor_parameters()[0].device.type == "cpu":
        keep_freed_memory()
    output_dir.mkdir(parents=True, exist_ok=True)
    state = TrainingState.start(roles, section, score_statistics).resume(run.checkpoints)
    if section.gradient_checkpointing:
        roles.enable_gradient_checkpointing()
    if section.compile:
        roles.compile()
    fingerprint = roles.frozen_fingerprint()
    state = _iterations(run, state, metrics, on_iteration or (lambda *shown: None))
    assert roles.frozen_fingerprint() == fingerprint, "reference or reward model has changed"
    dropped = len(prompts) - len(run.kept)
    return Trained(_summary(state.progress, dropped), state.averaged_actor())


@dataclass(frozen=True)
class _Run:
    """What does not change. kept: numbers of the prompts that are short enough."""

    prompts: Sequence[Sequence[int]]
    kept: Sequence[int]
    section: PPOSection
    seed: int
    judge: Judge | None
    on_answers: OnAnswers | None
    mix: PretrainingMix | None
    output_dir: Path

    @property
    def checkpoints(self) -> Path:
        return self.output_dir / CHECKPOINTS


def _iterations(
    run: _Run, state: TrainingState, metrics: MetricsLog, on_iteration: OnIteration
) -> TrainingState:
    """All that are left, with checkpoints and rollbacks; the last state."""
    section, keep = run.section, run.section.keep_checkpoints
    monitor = Monitor(section.monitors)
    if section.monitors.rolls_back:
        state.keep_a_best(run.checkpoints, keep)
    with held_interrupt("iteration") as interrupted:
        while state.progress.iteration < section.iterations:
            row, reason = _watched(run, state, monitor, metrics)
            if reason:
                monitor.allow_rollback(reason, state.progress.rollbacks)
                state = state.roll_back(run.checkpoints, keep, section.monitors.step_factor)
                metrics.rewind(state.progress.iteration)
                continue
            done = state.progress.iteration
            asked = any(gather(interrupted.is_set()))  # Ctrl-C reaches processes one by one
            if asked or done == section.iterations or done % section.checkpoint_every == 0:
                metrics.sync()
                state.save(run.checkpoints, keep)
            on_iteration(done, section.iterations, {name: row[name] for name in SHOWN})
            if asked:
                break
        if any(gather(interrupted.is_set())):  # or while the last iteration was saved
            barrier()  # the first to leave has the launcher end the one that still writes
            raise KeyboardInterrupt
    return state


def _watched(
    run: _Run, state: TrainingState, monitor: Monitor, metrics: MetricsLog
) -> tuple[dict[str, float], str | None]:
    """One iteration, logged; its row, and why to roll back, if there is a reason."""
    section, began = run.section, state.progress.iteration
    try:
        row = _iterate(run, state)
    except NonFinite as error:
        if section.monitors.non_finite == "stop":
            raise
        return {}, str(error)
    alarms = check(row, section.monitors, warming=began < section.critic_warmup)
    metrics.log(began, {**row, "alarms": len(alarms)})
    reason = monitor.watch(began + 1, alarms)
    if section.monitors.rolls_back and not reason and began % section.checkpoint_every == 0:
        state.progress.rate(row)
    return row, reason


def _iterate(run: _Run, state: TrainingState) -> dict[str, float]:
    """prompts -> Rollout -> Experience -> update -> controllers; the iteration's row of metrics."""
    roles, section, iteration = state.roles, run.section, state.progress.iteration
    train_actor = iteration >= section.critic_warmup
    order = passes(len(run.kept), section.rollout_batch, run.seed, iteration)
    chosen = [run.kept[place] for place in order]
    rollout = sample(
        roles,
        [run.prompts[number] for number in chosen],
        section,
        generator(run.seed, "sampling", iteration),
    )
    kl_coef = state.kl.coefficient(iteration)
    recompute = section.old_logprobs == "recomputed" or not train_actor
    experience = make_experience(
        roles,
        rollout,
        section,
        kl_coef=kl_coef,
        normaliser=state.normaliser,
        recompute=recompute,
    )
    row = {**measure(rollout, experience), "kl_coef": kl_coef}
    asked = chosen * section.responses_per_prompt
    if run.on_answers:
        run.on_answers(iteration, asked, rollout.completions, experience.scores.tolist())
    if run.judge:
        row |= judged(run.judge, asked, rollout)
    row |= since_start(row, state.progress.start or row)
    row |= update(
        roles,
        experience,
        section,
        actor=state.actor if train_actor else None,
        critic=state.critic,
        normaliser=state.normaliser,
        random_order=generator(run.seed, "minibatches", iteration),
        dump=run.output_dir / REFUSED,
        mix=run.mix,
    )
    if not recompute:  # the first step's forward is the first to compare the engine's with
        row["engine_gap"] = row["ratio_deviation"]
        del row["engine_gap_largest"]
    row = broadcast(row)  # all processes have it, but to the last bit only if they are alike
    if train_actor:  # until then the actor is the reference, and a KL of 0 says nothing
        state.kl.observe(row["kl"], section.episodes)
    with roles.language_model("actor") as model:
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
