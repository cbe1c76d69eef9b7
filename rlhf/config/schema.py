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
from rlhf.config.collect import (
    AnnotationSection,
    BalanceSection,
    CollectSection,
    GradingSection,
    SourceEntry,
)
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
