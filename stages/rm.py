"""Stage 2: the reward model, trained on ranked responses of the family."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf.config.schema import Config
from rlhf.data.datasets import RankingDataset, ranking_dataset
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.provenance import (
    ProvenanceReport,
    family_filter,
    keep_responses,
    listed_hashes,
)
from rlhf.data.records import RankingRecord
from rlhf.demo import rubric
from rlhf.evaluation.preference import pair_rows
from rlhf.models.load import checkpoint_hash, load_reward_model, load_tokenizer
from rlhf.models.registry import spec_of
from rlhf.runtime.distributed import Runtime, StageResult
from rlhf.runtime.files import write_text
from rlhf.runtime.metrics import MetricsLog, progress
from rlhf.runtime.steps import Step, Summary, execute
from rlhf.training.reward import train_reward_model
from rlhf.training.scoring import score_rankings

STAGE = "rm"
TRAIN, HELD_OUT = "train", "held out"


def run(config: Config, runtime: Runtime) -> StageResult:
    """Train on the rankings of this round and of those before it, from the main SFT model.

    `rm.model` names another model to start from.
    """
    return execute(step(config, runtime), runtime)


def step(config: Config, runtime: Runtime) -> Step:
    # A file of the user's is the same in every round; collected responses add up.
    first = runtime.round if config.annotation.source == "file" else 1
    rankings = {}
    for number in range(first, runtime.round + 1):
        collected = runtime.run_dir.stage("collect", number, runtime.rounds)
        rankings[f"{TRAIN} {number}"] = collected / "rankings.jsonl"
        rankings[f"{HELD_OUT} {number}"] = collected / "eval_rankings.jsonl"
    return Step(
        key=runtime.key(STAGE),
        stage=STAGE,
        directory=runtime.stage_dir(STAGE),
        sections=(config.rm, config.runtime.precision, config.seed),
        inputs={
            "model": Path(config.rm.model or runtime.run_dir.stage("sft/main")),
            **rankings,
        },
        work=partial(_train, config, runtime),
    )


def _train(config: Config, runtime: Runtime, step: Step) -> Summary:
    path = step.inputs["model"]
    tokenizer = load_tokenizer(path)
    train, train_origin = _rankings(TRAIN, tokenizer, config, runtime, step)
    held_out, held_out_origin = _rankings(HELD_OUT, tokenizer, config, runtime, step)
    origins = {TRAIN: asdict(train_origin), HELD_OUT: asdict(held_out_origin)}
    write_text(step.directory / "provenance.json", json.dumps(origins, indent=1) + "\n")
    model = load_reward_model(
        path,
        dtype=runtime.dtype,
        device=runtime.device,
        quantization="nf4" if config.rm.tuning.method == "qlora" else None,
    )
    with (
        MetricsLog(step.directory, config.runtime.trackers) as metrics,
        progress(step.key, runtime) as bar,
    ):
        summary = train_reward_model(
            model,
            tokenizer,
            train,
            held_out,
            config.rm,
            output_dir=step.directory,
            seed=runtime.seed,
            metrics=metrics,
            on_log=bar.update,
        )
    _write_pairs(held_out, config, runtime, step)
    dropped = {
        "responses_too_long": train.responses_too_long,
        "records_too_few": train.records_too_few,
        "records_all_tied": train.records_all_tied,
        "responses_off_family": train_origin.responses_dropped,
    }
    return asdict(summary) | dropped


def _rankings(
    name: str, tokenizer: PreTrainedTokenizerBase, config: Config, runtime: Runtime, step: Step
) -> tuple[RankingDataset, ProvenanceReport]:
    """The rankings of all rounds, of allowed families only, as token ids, and where from."""
    spec = spec_of(step.inputs["model"])
    files = [path for key, path in step.inputs.items() if key.startswith(name)]
    collected = chain.from_iterable(read_jsonl(path, RankingRecord) for path in files)
    section = config.rm.data
    known = _own_checkpoints(config, runtime) | listed_hashes(section.known_checkpoints)
    records, report = family_filter(collected, section.off_family, {spec.family}, known)
    return ranking_dataset(records, spec, tokenizer, section.max_length), report


def _own_checkpoints(config: Config, runtime: Runtime) -> set[str]:
    """Hashes of the models that this run has made so far: responses of theirs are proven."""
    made = [runtime.run_dir.stage("sft") / name for name in config.models]
    for number in range(1, runtime.round):
        made.append(runtime.run_dir.stage("ppo", number, runtime.rounds) / "actor")
    return {checkpoint_hash(path) for path in made if (path / "config.json").is_file()}


def _write_pairs(held_out: RankingDataset, config: Config, runtime: Runtime, step: Step) -> None:
    """Score the held-out responses with the model as saved, and write pairs.jsonl."""
    model = load_reward_model(step.directory, dtype=runtime.dtype, device=runtime.device)
    pad_id = load_tokenizer(step.directory).pad_token_id
    batch_size = config.rm.microbatch_size * 4
    scores = score_rankings(
        model, held_out, pad_id, batch_size, share_prompts=config.rm.share_prompt
    )
    records = [keep_responses(item.record, item.kept) for item in held_out.items]
    oracle = rubric.quality if config.annotation.source == "simulated" else None
    write_jsonl(step.directory / "pairs.jsonl", pair_rows(records, scores, oracle))
