"""The config of stage 3."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlhf.config.base import (
    BelowOne,
    Fraction,
    NonNegative,
    OptimiserSection,
    Positive,
    SamplingSection,
    Section,
    TuningSection,
    check_multiple,
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


Action = Literal["warn", "stop", "rollback"]


class RuleSection(Section):
    """The bounds that a metric has to stay within, and what happens when it does not."""

    low: float | None = None
    high: float | None = None
    action: Action = "warn"


class MonitorSection(Section):
    """A rule for each of these metrics; null switches it off, and what a rule leaves out keeps its
    default. `non_finite`: a loss or a gradient that is NaN or infinite.

    The action `rollback` returns to the best checkpoint with `step_factor` times the learning
    rates, `rollbacks` times at most, and then stops.
    """

    score_gain: RuleSection | None = RuleSection(low=-1.0)
    kl: RuleSection | None = RuleSection(high=50.0)
    entropy: RuleSection | None = RuleSection(low=0.05)
    response_growth: RuleSection | None = RuleSection(low=0.5, high=2.0)
    repetition: RuleSection | None = RuleSection(high=0.5)
    eos_rate: RuleSection | None = RuleSection(low=0.2)
    clip_fraction: RuleSection | None = RuleSection(high=0.5, action="rollback")
    explained_variance: RuleSection | None = RuleSection(low=0.0)
    length_correlation: RuleSection | None = RuleSection(high=0.8)
    judge_gain: RuleSection | None = RuleSection(low=-0.5)
    judge_gap: RuleSection | None = RuleSection(high=1.0)
    engine_gap: RuleSection | None = RuleSection(high=0.1)
    engine_gap_largest: RuleSection | None = RuleSection(high=5.0)
    non_finite: Literal["stop", "rollback"] = "stop"
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    rollbacks: Positive = 3

    @model_validator(mode="before")
    @classmethod
    def _rest_by_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {name: field.default for name, field in cls.model_fields.items()}
        return {
            name: {**kept[name].model_dump(), **value}
            if isinstance(value, dict) and isinstance(kept.get(name), RuleSection)
            else value
            for name, value in values.items()
        }

    @property
    def rules(self) -> dict[str, RuleSection]:
        """The rules that are on, by metric."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: rule for name, rule in sections.items() if isinstance(rule, RuleSection)}

    @property
    def rolls_back(self) -> bool:
        """Whether anything has the action `rollback`."""
        actions = [self.non_finite, *(rule.action for rule in self.rules.values())]
        return "rollback" in actions


class PPOSection(Section):
    """Stage 3: PPO. Defaults are the Baichuan 2 report's where it states them.

    A backward pass takes `microbatch` responses, or with `microbatch_tokens` as many as fit into
    that many columns, the padding that a model reads included. `rollout_microbatch` of them are
    decoded together. `judge`: a second reward model that only watches; null takes the demo's
    rubric, if there is a demo. `old_logprobs`: `recomputed` by the training forward, so that the
    first ratio is exactly 1, or the `engine`'s own, which saves that pass. Passes without a
    gradient take `scoring_microbatch` responses, null as many as a backward pass. `compile`: blocks
    are compiled for these passes.
    """

    actor: str | None = None
    reward_model: str | None = None
    judge: str | None = None
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
    ema_decay: BelowOne | None = None
    pretraining: PretrainingSection | None = None
    kl: KLSection = KLSection()
    score: ScoreSection = ScoreSection()
    sampling: SamplingSection = SamplingSection()
    engine: Literal["plain", "fast"] = "fast"
    old_logprobs: Literal["recomputed", "engine"] = "recomputed"
    scoring_microbatch: Positive | None = None
    compile: bool = False
    tuning: TuningSection = TuningSection(method="lora")
    actor_optimiser: OptimiserSection = OptimiserSection(
        learning_rate=5e-6, schedule="constant", grad_clip=0.5
    )
    critic_optimiser: OptimiserSection = OptimiserSection(
        learning_rate=5e-6, schedule="constant", grad_clip=0.5
    )
    monitors: MonitorSection = MonitorSection()
    checkpoint_every: Positive = 25
    """Iterations from one checkpoint to the next."""
    keep_checkpoints: Positive = 2
    gradient_checkpointing: bool = False

    @property
    def episodes(self) -> int:
        """Responses sampled in one iteration."""
        return self.rollout_batch * self.responses_per_prompt

    @model_validator(mode="after")
    def _arithmetic(self) -> PPOSection:
        check_multiple(
            "rollout_batch x responses_per_prompt", self.episodes, "minibatch", self.minibatch
        )
        if self.microbatch_tokens is None:
            check_multiple("minibatch", self.minibatch, "microbatch", self.microbatch)
        adapted = self.tuning.targets if self.tuning.method != "full" else ()
        if self.roles == "separate" and "lm_head" in adapted:
            raise ValueError(
                "a critic of its own has no lm_head to tune; take it out of tuning.targets, or set "
                "roles to shared"
            )
        if self.critic_warmup >= self.iterations:
            raise ValueError(
                f"critic_warmup = {self.critic_warmup} leaves the actor none of iterations = "
                f"{self.iterations}; lower the one or raise the other"
            )
        if self.kl.target is not None and self.kl.horizon < self.episodes:
            raise ValueError(
                f"kl.horizon = {self.kl.horizon} is in responses, of which an iteration has "
                f"{self.episodes}: raise it, to many times that"
            )
        if self.roles == "shared" and self.tuning.method == "full":
            raise ValueError(
                "roles: shared needs ppo.tuning.method lora or qlora; use roles: separate for full"
            )
        return self
