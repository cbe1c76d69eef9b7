"""Stage 1: supervised fine-tuning of the main model and of each further size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rlhf.config.schema import Config, ModelEntry
from rlhf.data.datasets import sft_dataset
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import SFTRecord
from rlhf.models.load import check_checkpoint, load_causal_lm, load_tokenizer
from rlhf.models.registry import spec_of
from rlhf.runtime.distributed import Runtime, StageResult
from rlhf.runtime.metrics import MetricsLog, progress
from rlhf.runtime.steps import Step, Summary, execute
from rlhf.training.sft import train_sft

STAGE = "sft"


def run(config: Config, runtime: Runtime) -> StageResult:
    """Train every model of `config.models`; each has its own directory `sft/<model>/`."""
    results = [execute(step, runtime) for step in steps(config, runtime)]
    return results[0]


def steps(config: Config, runtime: Runtime) -> Sequence[Step]:
    """One step a model, the main one first."""
    order = sorted(config.models, key=lambda name: name != "main")
    return [_step(name, config, runtime) for name in order]


def _step(name: str, config: Config, runtime: Runtime) -> Step:
    entry = config.models[name]
    check_checkpoint(entry.path, entry.architecture)
    data = runtime.run_dir.root / "data"
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
        work=partial(_train, entry, config, runtime),
    )


def _train(entry: ModelEntry, config: Config, runtime: Runtime, step: Step) -> Summary:
    spec, tokenizer = spec_of(entry.path), load_tokenizer(entry.path)
    model = load_causal_lm(
        entry.path,
        dtype=runtime.dtype,
        device=runtime.device,
        quantization="nf4" if config.sft.tuning.method == "qlora" else None,
    )
    train, held_out = (
        sft_dataset(
            read_jsonl(step.inputs[name], SFTRecord), spec, tokenizer, config.sft.max_length
        )
        for name in ("train", "held_out")
    )
    with (
        MetricsLog(step.directory, config.runtime.trackers) as metrics,
        progress(step.key, runtime) as bar,
    ):
        summary = train_sft(
            model,
            tokenizer,
            train,
            held_out,
            config.sft,
            output_dir=step.directory,
            seed=runtime.seed,
            metrics=metrics,
            on_log=bar.update,
        )
    return asdict(summary)
