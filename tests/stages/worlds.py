"""A run in miniature: a real config, rehearsed, then smaller still."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rlhf.apps.run import run
from rlhf.config.load import dump_config, load_config
from rlhf.config.schema import Config
from rlhf.demo.rehearse import rehearse

WORLD = {
    "sft_records": 200,
    "sft_eval_records": 20,
    "prompts": 120,
    "eval_prompts": 40,
    "vocabulary": 1200,
}
SMALLER: dict[str, dict[str, Any]] = {
    "demo": WORLD,
    "runtime": {"threads": 1},
    "sft": {"max_steps": 6, "eval_every": 3, "checkpoint_every": 2},
    "collect": {"prompts": 16, "eval_prompts": 8, "batch_size": 16},
    "rm": {
        "max_steps": 4,
        "batch_size": 4,
        "microbatch_size": 4,
        "eval_every": 2,
        "checkpoint_every": 2,
    },
    "ppo": {
        "iterations": 3,
        "rollout_batch": 8,
        "minibatch": 8,
        "critic_warmup": 1,
        "checkpoint_every": 1,
    },
    "evaluate": {"prompts": 8, "batch_size": 8, "extra_sft": True},
}


def miniature(name: str, folder: Path, like: str = "baichuan2_7b", **changes: Any) -> Path:
    """A config file of the structure of configs/<like>.yaml, run in seconds under folder/name."""
    values = rehearse(load_config(like)).model_dump()
    for section, smaller in SMALLER.items():
        values[section] |= smaller
    for section in ("collect", "ppo", "evaluate"):
        values[section]["sampling"]["max_new_tokens"] = 12
    values |= {"name": name, "output_dir": str(folder)} | changes
    path = folder / f"{name}.yaml"
    path.write_text(dump_config(Config.model_validate(values)), encoding="utf-8")
    return path


def call(config: Path, *overrides: str, **options: Any) -> None:
    """`rlhf run`, in this process."""
    chosen = {"start": None, "only": None, "redo": None, "rehearsal": False} | options
    run(load_config(config, overrides), **chosen)


def run_killed(config: Path, target: str) -> None:
    """`rlhf run` that dies, as by a power cut, before it puts the first file `target` in place.

    target: the end of a path. Files are put in place by renaming a complete draft.
    """

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(arguments[1]).endswith(target):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    call(config)


def statuses(run_dir: Path) -> dict[str, str]:
    """Status of every stage in the run's manifest."""
    stages = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))["stages"]
    return {key: stage["status"] for key, stage in stages.items()}
