"""The disk space that a run takes, reckoned from its config before there is anything."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlhf.config.schema import Config, ModelEntry, OptimiserSection, TuningSection
from rlhf.models.registry import named, spec_of
from rlhf.runtime.run_dir import STAGES
from rlhf.runtime.usage import GIB

ADAPTER_SHARE = 0.01
"""Adapters of rank 16 on every linear layer are 0.6 % of a 7B model's parameters."""
KEPT_CHECKPOINTS = 3
"""Of a supervised stage's: the two that are kept, and one that is being written."""


def check(config: Config) -> str:
    """Raises ValueError when the run directory's disk has less room than the run will take.

    What lies in the run directory already is taken off.
    """
    there = config.run_dir
    taken = sum(file.stat().st_size for file in there.rglob("*") if file.is_file())
    need = max(0.0, needed(config) - taken)
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    text = f"{config.run_dir} will take about {need / GIB:.3g} GiB, {free / GIB:.3g} are free"
    if free < need:
        raise ValueError(f"{text}; free some, or set output_dir to a folder on a larger disk")
    return text


def needed(config: Config) -> float:
    """Bytes: every stage's models, and the checkpoints of the stage that has the largest."""
    stages, rounds = config.stages or STAGES, config.rounds
    width = 4 if config.runtime.precision == "float32" else 2
    sizes = [parameters(entry) for entry in config.models.values()]
    main = parameters(config.main)
    sft = [_supervised(size, config.sft.tuning, config.sft.optimiser) for size in sizes]
    results, checkpoints = 0.0, [0.0]
    if "sft" in stages:
        results += width * sum(sizes)
        checkpoints += sft
    if "dpo" in stages and config.dpo is not None:
        results += rounds * width * main
        checkpoints.append(_supervised(main, config.dpo.tuning, config.dpo.optimiser))
    if "rm" in stages:
        results += rounds * width * _learnt(main, config.rm.tuning)
        checkpoints.append(_supervised(main, config.rm.tuning, config.rm.optimiser))
    if "ppo" in stages:
        saved = 3 if config.ppo.ema_decay is not None else 2  # actor, critic and their average
        results += rounds * width * saved * main
        learners = (config.ppo.actor_optimiser, config.ppo.critic_optimiser)
        state = sum(map(_state_bytes, learners)) * _learnt(main, config.ppo.tuning)
        checkpoints.append((config.ppo.keep_checkpoints + 2) * state)  # the best, and a new one
    if "evaluate" in stages and config.evaluate.extra_sft:
        results += width * main
        checkpoints.append(_supervised(main, config.sft.tuning, config.sft.optimiser))
    return results + max(checkpoints)


def parameters(entry: ModelEntry) -> int:
    """By the checkpoint's own sizes, by those of its architecture while it is not there.

    A demo's models count as nothing.
    """
    if entry.path.startswith("demo://"):
        return 0
    here = (Path(entry.path) / "config.json").is_file()
    return (spec_of(entry.path) if here else named(entry.architecture)).parameters


def _supervised(size: int, tuning: TuningSection, optimiser: OptimiserSection) -> float:
    return KEPT_CHECKPOINTS * _state_bytes(optimiser) * _learnt(size, tuning)


def _learnt(size: int, tuning: TuningSection) -> float:
    return size if tuning.method == "full" else ADAPTER_SHARE * size


def _state_bytes(optimiser: OptimiserSection) -> int:
    """A parameter in a checkpoint: itself in float32, and AdamW's two moments."""
    return 12 if optimiser.kind == "adamw" else 6
