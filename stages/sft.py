"""Stage 1: supervised fine-tuning of the main model and of each further size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rlhf.config.schema import Config
from rlhf.evaluation.card import with_cards
from rlhf.evaluation.plots import sft_loss
from rlhf.evaluation.run_files import read_metrics
from rlhf.models.checkpoint import check_checkpoint
from rlhf.runtime.distributed import Runtime, StageResult
from rlhf.runtime.steps import Step, Summary, execute
from rlhf.training.fine_tune import fine_tune

STAGE = "sft"


def run(config: Config, runtime: Runtime) -> StageResult:
    """Train every model of `config.models`; each has its own directory `sft/<model>/`."""
    for entry in config.models.values():
        check_checkpoint(entry.path, entry.architecture)
    made = [with_cards(execute(step, runtime), config, runtime) for step in steps(config, runtime)]
    return made[0]


def steps(config: Config, runtime: Runtime) -> list[Step]:
    """One step a model, the main one first."""
    order = sorted(config.models, key=lambda name: name != "main")
    return [_step(name, config, runtime) for name in order]


def _step(name: str, config: Config, runtime: Runtime) -> Step:
    entry = config.models[name]
    data = runtime.run_dir.data
    return Step(
        key=f"sft/{name}",
        stage=STAGE,
        directory=runtime.run_dir.stage("sft") / name,
        sections=(config.sft, config.runtime.precision, config.seed),
        inputs={
            "model": Path(entry.path),
            "train": data / "sft.jsonl",
            "held_out": data / "sft_eval.jsonl",
        },
        work=partial(_train, config, runtime),
    )


def _train(config: Config, runtime: Runtime, step: Step) -> Summary:
    summary = fine_tune(step, config, runtime)
    if runtime.main_process:
        plot = sft_loss({step.directory.name: read_metrics(step.directory)}).drawn()
        (step.directory / "loss.png").write_bytes(plot.png)
    return summary
