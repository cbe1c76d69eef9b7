"""Every config model. All are frozen; unknown keys are refused; derived sizes are properties.

A path in a config may be written three ways: a plain path (relative to the working directory),
`run://DIR` (inside this run's directory) or `demo://NAME` (a file or model of the demo world that
the run makes for itself).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


def _plain_name(value: str) -> str:
    if not value or set(value) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    ):
        raise ValueError("use letters, digits, '.', '_' and '-' only")
    if value.startswith("."):
        raise ValueError("must not start with '.'")
    return value


def _check_divides(section: AnySection, whole: str, part: str) -> AnySection:
    if getattr(section, whole) % getattr(section, part):
        raise ValueError(
            f"{whole} = {getattr(section, whole)} is not a multiple of "
            f"{part} = {getattr(section, part)}"
        )
    return section


Name = Annotated[str, AfterValidator(_plain_name)]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


class RuntimeSection(Section):
    """Where and how the run computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Positive | None = None
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)


class ModelEntry(Section):
    """One member of the family that this run tunes: a checkpoint directory and what it is."""

    path: str
    architecture: str
    size: str


class DataSection(Section):
    """The user's files: JSONL of the records in data_schemas/. A null held-out file is split off.

    `audits`: the authoritative annotator's verdicts on sampled demonstrations, JSONL of
    {id, acceptable}.
    """

    sft: str | None = None
    sft_eval: str | None = None
    audits: str | None = None
    prompts: str | None = None
    prompts_eval: str | None = None
    rankings: str | None = None
    taxonomy: str | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.05
    near_duplicate_threshold: Fraction = 0.8
    allow_leakage: bool = False


class TuningSection(Section):
    """Which weights learn. full: all; lora: low-rank adapters; qlora: adapters on an NF4 trunk."""

    method: Literal["full", "lora", "qlora"] = "full"
    r: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class OptimiserSection(Section):
    """AdamW and its schedule. `minimum`: the share of the learning rate that it ends at."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    minimum: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    kind: Literal["adamw", "adamw-8bit"] = "adamw"


class CurationSection(Section):
    """Acceptance of crowd batches after an authoritative annotator's check of a sample."""

    sample: Positive = 20
    threshold: Fraction = 0.6
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class SFTSection(Section):
    """Stage 1: supervised fine-tuning."""

    max_length: Positive = 2048
    epochs: Annotated[float, Field(gt=0)] = 3
    max_steps: Positive | None = None
    batch_size: Positive = 64
    microbatch_size: Positive = 8
    packing: bool = True
    neftune_alpha: NonNegative | None = None
    max_z_weight: NonNegative | None = None
    eval_every: Positive = 50
    checkpoint_every: Positive = 200
    gradient_checkpointing: bool = False
    tuning: TuningSection = TuningSection()
    optimiser: OptimiserSection = OptimiserSection()
    curation: CurationSection | None = None

    @model_validator(mode="after")
    def _divides(self) -> SFTSection:
        return _check_divides(self, "batch_size", "microbatch_size")


class SamplingSection(Section):
    """How a model is sampled. temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    max_new_tokens: Positive = 512
    temperature: NonNegative = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0


class SourceEntry(Section):
    """A model whose responses are collected; provenance comes from here and from its files."""

    path: str
    size: str
    stage: Literal["base", "sft", "dpo", "ppo"]


class CollectSection(Section):
    """Responses for the reward model.

    `models` empty: every SFT model of this run. Later rounds add the previous round's PPO model.
    """

    prompts: Positive = 2000
    eval_prompts: Positive = 200
    responses_per_prompt: Annotated[int, Field(ge=2, le=9)] = 4
    models: tuple[SourceEntry, ...] = ()
    sampling: SamplingSection = SamplingSection()
    batch_size: Positive = 64


class AnnotationSection(Section):
    """Who ranks the collected responses."""

    source: Literal["file", "page", "judge", "simulated"] = "page"
    judge: str | None = None

    @model_validator(mode="after")
    def _judge_named(self) -> AnnotationSection:
        if (self.source == "judge") != (self.judge is not None):
            raise ValueError(
                "annotation.judge names a reward model directory exactly when source is 'judge'"
            )
        return self


class RMDataSection(Section):
    """What the reward model may learn from."""

    off_family: Literal["refuse", "drop", "allow"] = "refuse"
    max_length: Positive = 2048


class RMSection(Section):
    """Stage 2: the reward model. Batch sizes count prompts, each with its K responses."""

    model: str | None = None
    epochs: Annotated[float, Field(gt=0)] = 1
    max_steps: Positive | None = None
    batch_size: Positive = 64
    microbatch_size: Positive = 4
    grade_margins: tuple[float, float, float, float, float] | None = None
    eval_every: Positive = 50
    checkpoint_every: Positive = 200
    gradient_checkpointing: bool = False
    tuning: TuningSection = TuningSection()
    optimiser: OptimiserSection = OptimiserSection(learning_rate=1e-5)
    data: RMDataSection = RMDataSection()

    @model_validator(mode="after")
    def _divides(self) -> RMSection:
        return _check_divides(self, "batch_size", "microbatch_size")


class KLSection(Section):
    """The penalty on leaving the reference: coefficient, its decay over the run, estimator."""

    initial: NonNegative = 0.2
    final: NonNegative = 0.005
    schedule: Literal["linear", "cosine", "exponential", "constant"] = "linear"
    target: Annotated[float, Field(gt=0)] | None = None
    horizon: Positive = 10_000
    estimator: Literal["k1", "k2", "k3"] = "k1"

    @model_validator(mode="after")
    def _exponential_positive(self) -> KLSection:
        if self.schedule == "exponential" and min(self.initial, self.final) == 0:
            raise ValueError("an exponential schedule needs initial and final above 0")
        return self


class ScoreSection(Section):
    """From score to reward. `fixed`: by the mean and standard deviation stored with the model."""

    normalisation: Literal["none", "fixed", "running"] = "fixed"
    clip: Annotated[float, Field(gt=0)] | None = 5.0
    missing_eos_penalty: NonNegative = 1.0


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
    """Stage 3: PPO. Defaults are the Baichuan 2 report's where it states them."""

    actor: str | None = None
    reward_model: str | None = None
    roles: Literal["shared", "separate"] = "shared"
    iterations: Positive = 350
    rollout_batch: Positive = 64
    responses_per_prompt: Positive = 1
    minibatch: Positive = 64
    microbatch: Positive = 8
    epochs: Positive = 1
    critic_warmup: Annotated[int, Field(ge=0)] = 20
    clip: Annotated[float, Field(gt=0)] = 0.1
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    gamma: Fraction = 1.0
    lam: Fraction = 0.95
    whiten_advantages: bool = True
    max_prompt_tokens: Positive = 512
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
        return _check_divides(self, "minibatch", "microbatch")


class EvaluateSection(Section):
    """Judging the policy on held-out prompts, and the report.

    `judge`: a reward model directory; null takes the demo's rubric, or the run's own reward model.
    `extra_sft`: also judge PPO against the SFT model trained on for as much compute as PPO used.
    """

    judge: str | None = None
    prompts: Positive = 200
    sampling: SamplingSection = SamplingSection()
    batch_size: Positive = 64
    extra_sft: bool = False
    samples: Positive = 5


class DemoSection(Section):
    """The small world that the run makes for itself: models, data, simulated annotators.

    `checkpoints`: name -> architecture of the tiny random models, found as `demo://models/NAME`.
    `annotator_noise`: standard deviation of the perceived quality, in points of the rubric's 10.
    """

    seed: int = 0
    checkpoints: dict[Name, str] = {}
    sft_records: Positive = 4000
    sft_eval_records: Positive = 250
    prompts: Positive = 1200
    eval_prompts: Positive = 250
    vocabulary: Positive = 1536
    annotator_noise: NonNegative = 0.5
    flaw_rate: Fraction = 0.45
    bad_group_flaw_rate: Fraction = 0.8


class Config(Section):
    """A whole run. `name` is its directory under `output_dir`."""

    name: Name
    seed: int = 0
    output_dir: str = "runs"
    rounds: Positive = 1
    runtime: RuntimeSection = RuntimeSection()
    models: dict[Name, ModelEntry]
    data: DataSection = DataSection()
    sft: SFTSection = SFTSection()
    collect: CollectSection = CollectSection()
    annotation: AnnotationSection = AnnotationSection()
    rm: RMSection = RMSection()
    ppo: PPOSection = PPOSection()
    evaluate: EvaluateSection = EvaluateSection()
    demo: DemoSection | None = None

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / self.name

    @property
    def main(self) -> ModelEntry:
        return self.models["main"]

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if "main" not in self.models:
            raise ValueError(
                "models needs an entry 'main': the model that goes through all three stages"
            )
        if self.annotation.source == "file" and self.data.rankings is None:
            raise ValueError(
                "annotation.source is 'file': name the ranking records in data.rankings"
            )
        if self.annotation.source == "simulated" and self.demo is None:
            raise ValueError(
                "annotation.source 'simulated' ranks the demo's prompts only: add a demo section"
            )
        return self
