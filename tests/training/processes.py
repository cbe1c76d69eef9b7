"""Trainings in several processes: run by the tests with the number of processes and a folder.

Every process does all cases one after the other; the main one writes what it logged and saved.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rlhf.config.base import OptimiserSection
from rlhf.config.schema import RuntimeSection
from rlhf.runtime.distributed import connect, disconnect, is_main_process
from rlhf.runtime.quiet import quiet
from rlhf.training.dpo import train_dpo
from rlhf.training.engine import Engine, read_engine
from rlhf.training.reward import train_reward_model
from rlhf.training.sft import train_sft
from tests.training import worlds

ENGINES = ("ddp", "zero2", "zero3")
STEPS = 20
OPTIMISER = OptimiserSection(learning_rate=1e-3, grad_clip=0.3, weight_decay=0.1)
SHARED = {
    "max_steps": STEPS,
    "eval_every": 5,
    "checkpoint_every": 8,
    "microbatch_size": 2,
    "optimiser": OPTIMISER,
}


def engine(name: str) -> Engine | None:
    return None if name == "ddp" else read_engine(RuntimeSection(device="cpu", deepspeed=name))


def sft(name: str, output: Path, rows: worlds.Rows, **changes: Any) -> Any:
    """Of 37 conversations, which neither microbatches nor processes divide."""
    return train_sft(
        worlds.language_model(z_loss_weight=1e-3),
        worlds.tokenizer(),
        worlds.conversations(37),
        worlds.conversations(11, seed=1),
        worlds.sft_section(**SHARED | changes),
        output_dir=output,
        seed=0,
        metrics=rows,
        engine=engine(name),
    )


def packed(name: str, output: Path, rows: worlds.Rows) -> Any:
    return sft(name, output, rows, packing=True)


def rm(name: str, output: Path, rows: worlds.Rows) -> Any:
    return train_reward_model(
        worlds.reward_model(),
        worlds.tokenizer(),
        worlds.rankings(37),
        worlds.rankings(11, seed=1),
        worlds.rm_section(**SHARED),
        output_dir=output,
        seed=0,
        metrics=rows,
        engine=engine(name),
    )


CASES: dict[str, Callable[[str, Path, worlds.Rows], Any]] = {"sft": sft, "packed": packed, "rm": rm}


def run(case: str, engine: str, output: Path) -> None:
    """Train, and write what was logged and the summary beside the model."""
    rows = worlds.Rows()
    with quiet():
        summary = CASES[case](engine, output, rows)
    if is_main_process():
        found = {"rows": rows.rows, "summary": asdict(summary)}
        (output / "found.json").write_text(json.dumps(found))


def main() -> None:
    torch.set_num_threads(1)
    connect(RuntimeSection(device="cpu", timeout=120))
    for name in sys.argv[2:]:
        case, engine = name.split("-")
        run(case, engine, Path(sys.argv[1]) / name)
    disconnect()


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
