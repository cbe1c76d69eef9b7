"""The rankings that a run's preference stages learn from: those of this round and of those before.

The reward model and DPO read the same ones, filtered by provenance alike (`rm.data`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf.config.schema import Config
from rlhf.data.datasets import RankingDataset, ranking_dataset
from rlhf.data.jsonl import read_all
from rlhf.data.provenance import ProvenanceReport, family_filter, listed_hashes
from rlhf.data.records import RankingRecord
from rlhf.models.checkpoint import checkpoint_hash
from rlhf.models.registry import named, spec_of, spec_on_disk
from rlhf.runtime.distributed import Runtime
from rlhf.runtime.files import write_text
from rlhf.runtime.manifest import SIMULATED
from rlhf.runtime.run_dir import STAGES
from rlhf.runtime.steps import Step

TRAIN, HELD_OUT = "train", "held out"


@dataclass(frozen=True)
class Preferences:
    """Rankings as token ids, and how many responses of either split were off the family."""

    train: RankingDataset
    held_out: RankingDataset
    train_off_family: int
    held_out_off_family: int

    @property
    def counts(self) -> dict[str, int]:
        """For a stage's summary: how many rankings to learn from are of simulated annotators, and
        what either split lost, the training split first."""
        simulated = sum(item.record.simulated for item in self.train.items)
        lost = _dropped(self.train, self.train_off_family) | {
            f"held_out_{name}": count
            for name, count in _dropped(self.held_out, self.held_out_off_family).items()
        }
        return {SIMULATED: simulated, **lost}


def ranking_files(config: Config, runtime: Runtime) -> dict[str, Path]:
    """The inputs of a step that reads rankings, by name."""
    # A file of the user's is the same in every round; collected responses add up.
    first = runtime.round if config.annotation.source == "file" else 1
    numbers = range(first, runtime.round + 1)
    collected = [runtime.run_dir.stage("collect", number, runtime.rounds) for number in numbers]
    splits = {
        TRAIN: [directory / "rankings.jsonl" for directory in collected],
        HELD_OUT: [Path(path) for path in config.rm.data.held_out]
        or [directory / "eval_rankings.jsonl" for directory in collected],
    }
    return {
        f"{split} {number}": path
        for split, paths in splits.items()
        for number, path in enumerate(paths, start=first)
    }


def check_given(config: Config, stages: Collection[str] = STAGES) -> None:
    """For the beginning of a run, before other stages have trained for those that read rankings.

    Files of the user's that are not there yet are passed over.

    Raises:
        ValueError: as read_preferences, of the user's own rankings, for stages that will run.
    """
    models = {"dpo": config.dpo.model if config.dpo else None, "rm": config.rm.model}
    reading = [stage for stage in models if stage in stages and getattr(config, stage)]
    given = _given(config, stages)
    for stage in reading:
        main = config.main
        start = spec_on_disk(models[stage] or main.path) or spec_on_disk(main.path)
        families = {(start or named(main.architecture)).family}
        for files in given:
            records = read_all([file for file in files if file.is_file()], RankingRecord)
            family_filter(records, config.rm.data.off_family, families)


def _given(config: Config, stages: Collection[str]) -> list[list[Path]]:
    """The user's own rankings to learn from, and those to test on."""
    data, held_out = config.data, [Path(path) for path in config.rm.data.held_out]
    if config.annotation.source != "file" or "collect" not in stages:
        return [held_out]  # what was collected before is read at once
    tested = held_out or [Path(path) for path in (data.rankings_eval,) if path]
    return [[Path(data.rankings or "")], tested]


def read_preferences(
    step: Step, tokenizer: PreTrainedTokenizerBase, config: Config, runtime: Runtime
) -> Preferences:
    """Reads a step's inputs, as the tokenizer of its input `model` encodes them; what they are made
    of goes into provenance.json.

    Raises:
        ValueError: responses from outside the family, unless `rm.data.off_family` allows them.
    """
    train, train_origin = _rankings(TRAIN, step.inputs, tokenizer, config, runtime)
    held_out, held_out_origin = _rankings(HELD_OUT, step.inputs, tokenizer, config, runtime)
    origins = {TRAIN: asdict(train_origin), HELD_OUT: asdict(held_out_origin)}
    if runtime.main_process:
        write_text(step.directory / "provenance.json", json.dumps(origins, indent=1) + "\n")
    off = (train_origin.responses_dropped, held_out_origin.responses_dropped)
    return Preferences(train, held_out, *off)


def _dropped(data: RankingDataset, off_family: int) -> dict[str, int]:
    return {
        "responses_too_long": data.responses_too_long,
        "records_too_few": data.records_too_few,
        "records_all_tied": data.records_all_tied,
        "responses_off_family": off_family,
    }


def _rankings(
    split: str,
    inputs: Mapping[str, Path],
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    runtime: Runtime,
) -> tuple[RankingDataset, ProvenanceReport]:
    """The rankings of all rounds, of allowed families only, as token ids, and where from."""
    spec = spec_of(inputs["model"])
    files = [path for key, path in inputs.items() if key.startswith(split)]
    collected = read_all(files, RankingRecord)
    section = config.rm.data
    families = {spec.family}
    made = {path for path in _own_checkpoints(config, runtime) if spec_of(path).family in families}
    known = {checkpoint_hash(path) for path in made}
    known |= listed_hashes(section.known_checkpoints, families)
    records, report = family_filter(collected, section.off_family, families, known)
    longest = min(section.max_length, spec.context)
    return ranking_dataset(records, spec, tokenizer, longest), report


def _own_checkpoints(config: Config, runtime: Runtime) -> list[Path]:
    """The models that this run has made so far and those that it samples, whose responses are
    proven: what they are is read from their files."""
    made = [Path(entry.path) for entry in config.collect.models]
    made += [runtime.run_dir.stage("sft") / name for name in config.models]
    for number in range(1, runtime.round):
        made.append(runtime.run_dir.stage("dpo", number, runtime.rounds))
        made.append(runtime.run_dir.stage("ppo", number, runtime.rounds) / "actor")
    return [path for path in made if (path / "config.json").is_file()]
