"""Any config unchanged in structure, with tiny models and demo data: minutes on a CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rlhf.config.schema import Config, SourceEntry
from rlhf.models.registry import REGISTRY

SAMPLING = {"max_new_tokens": 32}
DATA = {
    "sft": "demo://sft.jsonl",
    "sft_eval": "demo://sft_eval.jsonl",
    "prompts": "demo://prompts.jsonl",
    "prompts_eval": "demo://prompts_eval.jsonl",
    "audits": None,
    "rankings": None,
}
SHRUNK: dict[str, dict[str, Any]] = {
    "runtime": {"device": "cpu", "precision": "float32"},
    "sft": {
        "max_length": 128,
        "max_steps": 30,
        "batch_size": 16,
        "microbatch_size": 16,
        "eval_every": 10,
    },
    "collect": {"prompts": 48, "eval_prompts": 24, "batch_size": 48},
    "rm": {"max_steps": 8, "batch_size": 8, "microbatch_size": 8, "eval_every": 4},
    "ppo": {
        "iterations": 4,
        "rollout_batch": 16,
        "minibatch": 16,
        "microbatch": 8,
        "critic_warmup": 1,
        "checkpoint_every": 2,
    },
    "evaluate": {"prompts": 24, "batch_size": 24},
}
WORLD = {"sft_records": 800, "sft_eval_records": 60, "prompts": 600, "eval_prompts": 60}


def rehearse(config: Config) -> Config:
    """A config in miniature: its stages, rounds, roles and tuning stay as they are.

    The checkpoints it names are replaced by random ones in the official layout; NF4 becomes plain
    LoRA, since its
    kernels want a GPU; rankings come from the simulated annotators.
    """
    values = config.model_dump()
    checkpoints = {name: entry.architecture for name, entry in config.models.items()}
    for name, entry in values["models"].items():
        entry["path"] = f"demo://models/{name}"
    for source, entry in zip(config.collect.models, values["collect"]["models"], strict=True):
        if not source.path.startswith("run://"):
            name = Path(source.path).name
            checkpoints[name] = _architecture(source, config)
            entry["path"] = f"demo://models/{name}"
    for section, shrunk in SHRUNK.items():
        values[section] |= shrunk
    for section in ("sft", "rm", "ppo"):
        if values[section]["tuning"]["method"] == "qlora":
            values[section]["tuning"]["method"] = "lora"
    for section in ("collect", "ppo", "evaluate"):
        values[section]["sampling"] |= SAMPLING
    values |= {
        "name": f"{config.name}-rehearsal",
        "data": values["data"] | DATA,
        "annotation": {"source": "simulated"},
        "demo": {"seed": config.seed, "checkpoints": checkpoints, **WORLD},
    }
    return Config.model_validate(values)


def _architecture(source: SourceEntry, config: Config) -> str:
    """The registered architecture that a directory is named after, else the main model's."""
    plain = re.sub(r"[^a-z0-9]", "", Path(source.path).name.lower())
    named = [name for name in REGISTRY if plain.startswith(re.sub(r"[^a-z0-9]", "", name))]
    return max(named, key=len, default=config.main.architecture)
