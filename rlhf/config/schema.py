"""Every config model. All are frozen; unknown keys are refused; derived sizes are properties.

A path in a config may be written three ways: a plain path (relative to the working directory),
`run://DIR` (inside this run's directory) or `demo://NAME` (a file or model of the demo world that
the run makes for itself).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config.ablation import AblationSection
from rlhf.config.base import (
    Fraction,
    Name,
    NonNegative,
    OptimiserSection,
    Positive,
    SamplingSection,
    Section,
    TuningSection,
)
from rlhf.config.capabilities import CapabilitySection
from rlhf.config.dpo import DPOSection
from rlhf.config.ppo import (
    KLSection,
    MonitorSection,
    PPOSection,
    PretrainingSection,
    ScoreSection,
)
from rlhf.config.rm import RMDataSection, RMSection
from rlhf.config.sft import CurationSection, SFTSection

__all__ = [
    "AblationSection",
    "AnnotationSection",
    "BalanceSection",
    "CapabilitySection",
    "CollectSection",
    "Config",
    "CurationSection",
    "DPOSection",
    "DataSection",
    "DemoSection",
    "EvaluateSection",
    "GradingSection",
    "KLSection",
    "ModelEntry",
    "MonitorSection",
    "OptimiserSection",
    "PPOSection",
    "PretrainingSection",
    "RMDataSection",
    "RMSection",
    "RuntimeSection",
    "SFTSection",
    "SamplingSection",
    "ScoreSection",
    "Section",
    "SourceEntry",
    "TuningSection",
]


Stage = Literal["sft", "collect", "dpo", "rm", "ppo", "evaluate"]


class RuntimeSection(Section):
    """Where and how the run computes.

    `deepspeed`: a DeepSpeed configuration, such as configs/deepspeed/zero2.json; null: plain data
    parallelism where there are several processes. `timeout`: seconds that a process waits for the
    others before it gives up. `threads`: of a process on the CPU; null: a host's cores are shared
    among its processes.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where torch finds one, else the CPU."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None  # torch would start any number
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)
    deepspeed: str | None = None
    timeout: Annotated[int, Field(ge=1, le=7 * 86400)] = 1800


class ModelEntry(Section):
    """One member of the family that this run tunes: a checkpoint directory and what it is."""

    path: str
    architecture: str
    """One of baichuan-7b, baichuan-13b, baichuan2-7b, baichuan2-13b, moss-moon-003, smollm2-135m
    and smollm2-100m. A checkpoint of another layout than its own is refused."""
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
    rankings_eval: str | None = None
    taxonomy: str | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.05
    near_duplicate_threshold: Fraction = 0.8
    allow_leakage: bool = False


class SourceEntry(Section):
    """A model whose responses are collected; provenance comes from here and from its files."""

    path: str
    size: str
    stage: Literal["base", "sft", "dpo", "ppo"]


class BalanceSection(Section):
    """Prompts drawn so that the categories of a taxonomy level even out.

    A category with n prompts counts n ** (1 / temperature): 1 keeps the shares, more flattens them.
    """

    level: Literal[1, 2, 3] = 3
    temperature: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2


class CollectSection(Section):
    """Responses for the reward model.

    `models` empty: every SFT model of this run. Later rounds add the previous round's PPO model.
    `balance`: by category; null draws every prompt alike.
    """

    prompts: Positive = 2000
    eval_prompts: Positive = 200
    """Held-out prompts that are answered and ranked too; the reward model is tested on these."""
    balance: BalanceSection | None = None
    responses_per_prompt: Annotated[int, Field(ge=2, le=9)] = 4
    models: tuple[SourceEntry, ...] = ()
    sampling: SamplingSection = SamplingSection()
    batch_size: Positive = 64
    """Responses sampled together, and read together by a judge: fewer take less memory."""


class GradingSection(Section):
    """A judge in the place of people: what it says is graded as theirs is, and called simulated.

    All in standard deviations of the judge's scores. tie: smaller gaps between neighbours are ties.
    bounds: gaps at which the grade rises from 1 to 2, ..., 4 to 5. noise: of what it perceives.
    """

    tie: NonNegative = 0.1
    bounds: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.25, 0.5, 1.0, 1.5)
    noise: NonNegative = 0.0

    @model_validator(mode="after")
    def _rising(self) -> GradingSection:
        if list(self.bounds) != sorted(self.bounds):
            raise ValueError("bounds have to rise, from the gap of grade 2 to that of grade 5")
        return self


class AnnotationSection(Section):
    """Who ranks the collected responses. grading: null leaves a judge's rankings without grades; a
    section that has none is written without the key, as for `SamplingSection.stop`."""

    source: Literal["file", "page", "judge", "simulated"] = "page"
    judge: str | None = None
    grading: Annotated[GradingSection | None, Field(exclude_if=lambda grading: grading is None)] = (
        None
    )

    @model_validator(mode="after")
    def _judge_named(self) -> AnnotationSection:
        if (self.source == "judge") != (self.judge is not None):
            raise ValueError(
                "annotation.judge names a reward model directory exactly when source is 'judge'"
            )
        if self.grading is not None and self.source != "judge":
            raise ValueError("annotation.grading grades what a judge says: set source to judge")
        return self


class EvaluateSection(Section):
    """Judging the policy on held-out prompts, and the report.

    `judge`: a reward model directory; null takes the demo's rubric, or PPO's own reward model.
    `extra_sft`: also judge PPO against the SFT model trained on for as much compute as PPO used.
    """

    judge: str | None = None
    prompts: Positive = 200
    """Held-out prompts that every policy answers: the first of them."""
    sampling: SamplingSection = SamplingSection()
    batch_size: Positive = 64
    """Answers sampled together, and read together by the judge: fewer take less memory."""
    extra_sft: bool = False
    samples: Positive = 5
    """Prompts whose answers, before and after, the report shows side by side."""


class DemoSection(Section):
    """The small world that the run makes for itself: models, data, simulated annotators.

    `checkpoints`: name -> architecture of the tiny random models, found as `demo://models/NAME`.
    `annotator_noise`: standard deviation of the perceived quality, in points of the rubric's 10.
    """

    seed: int = 0
    """Makes the world: its data, and the models' random weights."""
    checkpoints: dict[Name, str] = {}
    sft_records: Positive = 5000
    """Demonstrations to learn from."""
    sft_eval_records: Positive = 250
    """Demonstrations that are held out."""
    prompts: Positive = 1200
    """Prompts to learn from."""
    eval_prompts: Positive = 250
    """Prompts that are held out, at most: near-duplicates of the others are left out."""
    vocabulary: Positive = 1536
    """Tokens of the models' vocabulary."""
    annotator_noise: NonNegative = 0.5
    flaw_rate: Fraction = 0.5
    """Share of the demonstrations that have a flaw."""
    bad_group_flaw_rate: Fraction = 0.95
    """The same in the one careless group of annotators, which curation is there to find."""


class Config(Section):
    """A whole run. `name`: its directory under `output_dir`. `dpo`: null leaves that stage out.

    `stages`: those that the run has, such as [sft]; null: all. `capabilities`: null asks none.
    """

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # as numpy takes it
    output_dir: str = "runs"
    """The folder of all runs, relative to the working directory."""
    rounds: Positive = 1
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] | None = None
    runtime: RuntimeSection = RuntimeSection()
    models: dict[Name, ModelEntry]
    data: DataSection = DataSection()
    sft: SFTSection = SFTSection()
    collect: CollectSection = CollectSection()
    annotation: AnnotationSection = AnnotationSection()
    dpo: DPOSection | None = None
    rm: RMSection = RMSection()
    ppo: PPOSection = PPOSection()
    evaluate: EvaluateSection = EvaluateSection()
    capabilities: CapabilitySection | None = None
    demo: DemoSection | None = None
    ablation: AblationSection | None = None

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
        if self.rounds > 1 and "run://dpo" in (self.ppo.actor, self.rm.model):
            raise ValueError(
                "run://dpo is the last round's, which the first cannot start from: set rounds: 1, "
                "or name the dpo directory of a finished run"
            )
        if self.annotation.source == "file" and self.data.rankings is None:
            raise ValueError(
                "annotation.source is 'file': name the ranking records in data.rankings"
            )
        if self.annotation.source == "simulated" and self.demo is None:
            raise ValueError(
                "annotation.source 'simulated' ranks the demo's prompts only: add a demo section"
            )
        if self.ablation is not None and self.rounds != 1:
            raise ValueError("an ablation compares the runs of one round: set rounds: 1")
        return self
