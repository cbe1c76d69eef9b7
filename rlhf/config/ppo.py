"""The config of stage 3."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config.base import (
    Fraction,
    NonNegative,
    OptimiserSection,
    Positive,
    SamplingSection,
    Section,
    TuningSection,
    check_divides,
)


class KLSection(Section):
    """The penalty on leaving the reference: coefficient, its course over the run, estimator.

    `adaptive` starts at `initial` and steers the KL to `target`, in nats a response; `horizon`, in
    responses, is how slowly. All others end at `final`, `constant` stays at `initial`.
    """

    initial: NonNegative = 0.2
    final: NonNegative = 0.005
    schedule: Literal["linear", "cosine", "exponential", "constant", "adaptive"] = "linear"
    target: Annotated[float, Field(gt=0)] | None = None
    horizon: Positive = 10_000
    estimator: Literal["k1", "k2", "k3"] = "k1"

    @model_validator(mode="after")
    def _consistent(self) -> KLSection:
        if self.schedule == "exponential" and min(self.initial, self.final) == 0:
            raise ValueError("an exponential schedule needs initial and final above 0")
        if self.schedule == "adaptive" and self.initial == 0:
            raise ValueError("an adaptive schedule multiplies initial, which has to be above 0")
        if (self.schedule == "adaptive") != (self.target is not None):
            raise ValueError("target, in nats, goes with schedule: adaptive, and with no other")
        return self


class ScoreSection(Section):
    """From score to reward. `fixed`: by the mean and standard deviation stored with the model.

    The penalties come off the normalised, clipped score: one for a response that was cut off, one
    for every token.
    """

    normalisation: Literal["none", "fixed", "running"] = "fixed"
    clip: Annotated[float, Field(gt=0)] | None = 5.0
    missing_eos_penalty: NonNegative = 1.0
    length_penalty: NonNegative = 0.0


class PretrainingSection(Section):
    """Text mixed into the actor's steps, against the loss of what it knew (PPO-ptx).

    `data`: JSONL of {"id", "text"}. Every actor step adds `weight` times the mean loss of a token
    over `rows` texts, each cut to `max_length` tokens.
    """

    data: str
    weight: Annotated[float, Field(gt=0)] = 1.0
    rows: Positive = 8
    max_length: Annotated[int, Field(ge=2)] = 512


Action = Literal["warn", "stop"]


class MonitorSection(Section):
    """Alarms on the running loop; null switches one off."""

    action: Action = "warn"
    kl_max: Annotated[float, Field(gt=0)] | None = 50.0
    entropy_min: NonNegative | None = 0.05
    clip_fraction_max: Fraction | None = 0.5
    repetition_max: Fraction | None = 0.5
    eos_rate_min: Fraction | None = 0.2
    engine_gap_max: Annotated[float, Field(gt=0)] | None = 0.2


class PPOSection(Section):
    """Stage 3: PPO. Defaults are the Baichuan 2 report's where it states them.

    A backward pass takes `microbatch` responses, or with `microbatch_tokens` as many as fit into
    that many columns, padding included. `rollout_microbatch` of them are decoded together.
    """

    actor: str | None = None
    reward_model: str | None = None
    roles: Literal["shared", "separate"] = "shared"
    iterations: Positive = 350
    rollout_batch: Positive = 64
    responses_per_prompt: Positive = 1
    minibatch: Positive = 64
    microbatch: Positive = 8
    microbatch_tokens: Positive | None = None
    rollout_microbatch: Positive = 128
    epochs: Positive = 1
    critic_warmup: Annotated[int, Field(ge=0)] = 20
    clip: Annotated[float, Field(gt=0)] = 0.1
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    gamma: Fraction = 1.0
    lam: Fraction = 0.95
    whiten_advantages: bool = True
    max_prompt_tokens: Positive = 512
    ema_decay: Fraction | None = None
    pretraining: PretrainingSection | None = None
    kl: KLSection = KLSection()
    score: ScoreSection = ScoreSection()
    sampling: SamplingSection = SamplingSection()
    engine: Literal["plain", "fast"] = "fast"
    tuning: TuningSection = TuningSection(method="lora")
    actor_optimiser: OptimiserSection = OptimiserSection(
        learning_rate=5e-6, schedule="constant", grad_clip=0.5
    )
    critic_optimiser: OptimiserSection = OptimiserSection(
        learning_rate=5e-6, schedule="constant", grad_clip=0.5
    )
    monitors: MonitorSection = MonitorSection()
    checkpoint_every: Positive = 25
    keep_checkpoints: Positive = 2
    gradient_checkpointing: bool = False

    @property
    def episodes(self) -> int:
        """Responses sampled in one iteration."""
        return self.rollout_batch * self.responses_per_prompt

    @model_validator(mode="after")
    def _arithmetic(self) -> PPOSection:
        if self.episodes % self.minibatch:
            raise ValueError(
                f"rollout_batch x responses_per_prompt = {self.episodes} is not a multiple of "
                f"minibatch = {self.minibatch}; choose a minibatch that divides it"
            )
        if self.roles == "shared" and self.tuning.method == "full":
            raise ValueError(
                "roles: shared needs ppo.tuning.method lora or qlora; use roles: separate for full"
            )
        return check_divides(self, "minibatch", "microbatch")
