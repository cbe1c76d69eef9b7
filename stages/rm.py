"""Stage 2: the reward model, trained on ranked responses of the family."""

from __future__ import annotations

import gc
from dataclasses import asdict
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf.config.schema import Config
from rlhf.data.datasets import RankingDataset
from rlhf.data.jsonl import write_jsonl
from rlhf.data.provenance import keep_responses
from rlhf.demo import rubric
from rlhf.evaluation.card import with_cards
from rlhf.evaluation.preference import pair_rows
from rlhf.models.load import load_reward_model, load_tokenizer
from rlhf.runtime.distributed import Runtime, StageResult
from rlhf.runtime.metrics import MetricsLog, progress
from rlhf.runtime.steps import Step, Summary, execute
from rlhf.training.engine import read_engine
from rlhf.training.loading import load_to_train
from rlhf.training.rankings import Preferences, ranking_files, read_preferences
from rlhf.training.reward import RMSummary, train_reward_model
from rlhf.training.scoring import score_rankings

STAGE = "rm"


def run(config: Config, runtime: Runtime) -> StageResult:
    """Train on the rankings of this round and of those before it, from the main SFT model.

    `rm.model` names another model to start from.
    """
    result = execute(steps(config, runtime)[0], runtime)
    return with_cards(result, config, runtime)


def steps(config: Config, runtime: Runtime) -> list[Step]:
    """The one that the stage has."""
    return [
        Step(
            key=runtime.key(STAGE),
            stage=STAGE,
            directory=runtime.stage_dir(STAGE),
            sections=(config.rm, config.runtime.precision, config.seed),
            inputs={
                "model": Path(config.rm.model or runtime.run_dir.stage("sft/main")),
                **ranking_files(config, runtime),
            },
            work=partial(_train, config, runtime),
        )
    ]


def _train(config: Config, runtime: Runtime, step: Step) -> Summary:
    tokenizer = load_tokenizer(step.inputs["model"])
    rankings = read_preferences(step, tokenizer, config, runtime)
    summary = _learn(rankings, tokenizer, config, runtime, step)
    gc.collect()  # the trained model stands in a cycle with its trainer
    _write_pairs(rankings.held_out, config, runtime, step)
    return asdict(summary) | rankings.counts


def _learn(
    rankings: Preferences,
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    runtime: Runtime,
    step: Step,
) -> RMSummary:
    engine = read_engine(config.runtime)
    path = step.inputs["model"]
    model = load_to_train(load_reward_model, path, config.rm, runtime, engine)
    with (
        MetricsLog(step.directory, config.runtime.trackers) as metrics,
        progress(step.key, runtime) as bar,
    ):
        return train_reward_model(
            model,
            tokenizer,
            rankings.train,
            rankings.held_out,
            config.rm,
            output_dir=step.directory,
            seed=runtime.seed,
            metrics=metrics,
            on_log=bar.update,
            engine=engine,
        )


def _write_pairs(held_out: RankingDataset, config: Config, runtime: Runtime, step: Step) -> None:
    """Score the held-out responses with the model as saved, and write pairs.jsonl."""
    model = load_reward_model(step.directory, dtype=runtime.dtype, device=runtime.device)
    pad_id = load_tokenizer(step.directory).pad_token_id
    batch_size = config.rm.microbatch_size * 4
    scores = score_rankings(
        model, held_out, pad_id, batch_size, share_prompts=config.rm.share_prompt
    )
    if not runtime.main_process:
        return
    records = [keep_responses(item.record, item.kept) for item in held_out.items]
    oracle = rubric.quality if config.annotation.source == "simulated" else None
    write_jsonl(step.directory / "pairs.jsonl", pair_rows(records, scores, oracle))
