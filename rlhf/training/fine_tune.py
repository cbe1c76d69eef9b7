"""A supervised fine-tuning from files to files: what a step of a run does."""

from __future__ import annotations

import logging
from dataclasses import asdict

from rlhf.config.schema import Config
from rlhf.data.datasets import sft_dataset
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import SFTRecord
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.models.registry import spec_of
from rlhf.runtime.distributed import Runtime
from rlhf.runtime.metrics import MetricsLog, progress
from rlhf.runtime.steps import Step, Summary
from rlhf.training.engine import read_engine
from rlhf.training.loading import load_to_train
from rlhf.training.sft import train_sft

logger = logging.getLogger(__name__)


def fine_tune(
    step: Step, config: Config, runtime: Runtime, max_flops: float | None = None
) -> Summary:
    """Train the step's input `model` on its inputs `train` and `held_out`, into its directory.

    max_flops: a budget instead of the section's epochs (rlhf.training.sft.train_sft).
    """
    path, section = step.inputs["model"], config.sft
    spec, tokenizer = spec_of(path), load_tokenizer(path)
    if spec.context < section.max_length:
        logger.warning(
            "sft.max_length = %d: the model reads %d tokens (model_max_length in its config.json), "
            "and conversations are cut there",
            section.max_length,
            spec.context,
        )
    engine = read_engine(config.runtime)
    model = load_to_train(load_causal_lm, path, section, runtime, engine)
    train, held_out = (
        sft_dataset(
            read_jsonl(step.inputs[name], SFTRecord),
            spec,
            tokenizer,
            min(section.max_length, spec.context),
            section.max_source_length,
            section.max_target_length,
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
            section,
            output_dir=step.directory,
            seed=runtime.seed,
            metrics=metrics,
            max_flops=max_flops,
            on_log=bar.update,
            engine=engine,
        )
    return asdict(summary)
