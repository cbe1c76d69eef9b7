"""Benchmarks before and after each stage: what alignment costs in what the model could do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rlhf.config.schema import CapabilitySection, Config
from rlhf.data.jsonl import write_jsonl
from rlhf.evaluation.capabilities import BASE, FILE, FOLDER, means
from rlhf.evaluation.harness import ask, harness_version
from rlhf.runtime.distributed import Runtime, once
from rlhf.runtime.steps import Step, Summary

MEASURED = ("sft", "dpo", "ppo")
"""Stages that make a language model."""


def before(config: Config, runtime: Runtime, work: Sequence[tuple[str, int]]) -> list[Step]:
    """The base, before the first stage: what cannot be asked is known before a GPU has worked.

    work: the stages to come, with their rounds.
    """
    if config.capabilities is None or not {stage for stage, _ in work} & set(MEASURED):
        return []
    return [_step(config.capabilities, BASE, Path(config.main.path), config, runtime)]


def after(stage: str, config: Config, runtime: Runtime) -> list[Step]:
    """The language model that a stage has just made; none after the others."""
    if config.capabilities is None or stage not in MEASURED:
        return []
    made = runtime.stage_dir(stage)
    model = {"sft": made / "main", "dpo": made, "ppo": made / "actor"}[stage]
    last = stage == "sft" or runtime.round == runtime.rounds
    name = stage if last else f"{stage}-{runtime.round}"
    return [_step(config.capabilities, name, model, config, runtime)]


def _step(
    section: CapabilitySection, name: str, model: Path, config: Config, runtime: Runtime
) -> Step:
    directory = runtime.run_dir.stage(f"{FOLDER}/{name}")
    folders = {f"tasks {i}": Path(path) for i, path in enumerate(section.include, start=1)}
    return Step(
        key=f"{FOLDER}/{name}",
        stage=FOLDER,
        directory=directory,
        sections=(section, config.runtime.precision),
        inputs={"model": model, **folders},
        work=partial(_ask, section, runtime),
    )


def _ask(section: CapabilitySection, runtime: Runtime, step: Step) -> Summary:
    harness = harness_version()
    rows = ask(step.inputs["model"], section, runtime)
    once(lambda: write_jsonl(step.directory / FILE, rows))
    return {"harness": harness, "questions": len(rows), **means(rows)}
