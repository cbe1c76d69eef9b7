"""DPO: a policy straight from ranked responses, before PPO or instead of it. Off when null."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

from rlhf.config.schema import Config, DPOSection
from rlhf.data.datasets import pair_dataset
from rlhf.evaluation.card import with_cards
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.models.registry import spec_of
from rlhf.runtime.distributed import Runtime, StageResult
from rlhf.runtime.metrics import MetricsLog, progress
from rlhf.runtime.steps import Step, Summary, execute
from rlhf.training.dpo import train_dpo
from rlhf.training.engine import read_engine
from rlhf.training.loading import load_to_train
from rlhf.training.rankings import ranking_files, read_preferences

STAGE = "dpo"


def run(config: Config, runtime: Runtime) -> StageResult:
    """Train on the pairs of this round and of those before it, the very ones of the reward model.

    Does nothing where `dpo` is null.
    """
    made = steps(config, runtime)
    if not made:
        return StageResult(runtime.stage_dir(STAGE), {})
    return with_cards(execute(made[0], runtime), config, runtime)


def steps(config: Config, runtime: Runtime) -> list[Step]:
    """One, or none where `dpo` is null."""
    section = config.dpo
    if section is None:
        return []
    return [
        Step(
            key=runtime.key(STAGE),
            stage=STAGE,
            directory=runtime.stage_dir(STAGE),
            sections=(section, config.rm.data, config.runtime.precision, config.seed),
            inputs={
                "model": Path(section.model or runtime.run_dir.stage("sft/main")),
                **ranking_files(config, runtime),
            },
            work=partial(_train, config, section, runtime),
        )
    ]


def _train(config: Config, section: DPOSection, runtime: Runtime, step: Step) -> Summary:
    path = step.inputs["model"]
    spec, tokenizer = spec_of(path), load_tokenizer(path)
    rankings = read_preferences(step, tokenizer, config, runtime)
    engine = read_engine(config.runtime)
    model = load_to_train(load_causal_lm, path, section, runtime, engine)
    with (
        MetricsLog(step.directory, config.runtime.trackers) as metrics,
        progress(step.key, runtime) as bar,
    ):
        summary = train_dpo(
            model,
            tokenizer,
            pair_dataset(rankings.train, spec, tokenizer),
            pair_dataset(rankings.held_out, spec, tokenizer),
            section,
            output_dir=step.directory,
            seed=runtime.seed,
            metrics=metrics,
            on_log=bar.update,
            engine=engine,
        )
    return asdict(summary) | rankings.counts
