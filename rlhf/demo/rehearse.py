"""Any config unchanged in structure, with tiny models and demo data: minutes on a CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rlhf.config.schema import Config, SourceEntry
from rlhf.models.registry import REGISTRY

MOST: dict[str, dict[str, int]] = {
    "sft": {"max_length": 128, "max_steps": 30, "eval_every": 10},
    "collect": {"prompts": 48, "eval_prompts": 24},
    "dpo": {"max_steps": 8, "eval_every": 4},
    "rm": {"max_steps": 8, "eval_every": 4},
    "ppo": {"iterations": 4, "critic_warmup": 1, "checkpoint_every": 2},
    "evaluate": {"prompts": 24},
}
"""Counts that a rehearsal lowers to this, and leaves where they are lower."""
REPLACED: dict[str, dict[str, Any]] = {
    "runtime": {"device": "cpu", "precision": "float32"},
    "data": {
        "sft": "demo://sft.jsonl",
        "sft_eval": "demo://sft_eval.jsonl",
        "prompts": "demo://prompts.jsonl",
        "prompts_eval": "demo://prompts_eval.jsonl",
        "audits": None,
        "rankings": None,
        "rankings_eval": None,
        "taxonomy": None,
        "near_duplicate_threshold": 0.8,
    },
    "sft": {
        "batch_size": 16,
        "microbatch_size": 4,
        "compile": False,
        "activation_budget": 1.0,
        "split_weights": False,
    },
    "collect": {"batch_size": 48},
    "dpo": {"batch_size": 8, "microbatch_size": 2},
    "rm": {"batch_size": 8, "microbatch_size": 2, "compile": False},
    "ppo": {
        "rollout_batch": 16,
        "minibatch": 16,
        "microbatch": 8,
        "pretraining": None,
        "compile": False,
    },
    "evaluate": {"batch_size": 24},
}
GIVEN = (
    ("dpo", "model"),
    ("rm", "model"),
    ("ppo", "actor"),
    ("ppo", "reward_model"),
    ("ppo", "judge"),
    ("evaluate", "judge"),
)
"""Inputs that another run may have made."""
ANSWER_TOKENS = 32
QUESTIONS = {"tasks": ["demo_world"], "include": [], "limit": 40}
CURATION = {"sample": 20, "threshold": 0.37}
WORLD = {"sft_records": 800, "sft_eval_records": 60, "prompts": 600, "eval_prompts": 60}


def rehearse(config: Config) -> Config:
    """A config in miniature: its stages, rounds, roles and tuning stay as they are.

    The checkpoints it names are replaced by random ones in the official layout, results of other
    runs by this run's own; NF4 becomes plain LoRA and 8-bit AdamW plain AdamW, since their kernels
    want a GPU, and with them goes what needs them or compiled blocks; rankings come from the
    simulated annotators.
    """
    values = config.model_dump()
    checkpoints = {name: entry.architecture for name, entry in config.models.items()}
    for name, entry in values["models"].items():
        entry["path"] = f"demo://models/{name}"
    for source, entry in zip(config.collect.models, values["collect"]["models"], strict=True):
        if not source.path.startswith("run://"):
            name = "source-" + re.sub(r"[^A-Za-z0-9._-]", "-", Path(source.path).name)
            checkpoints[name] = _architecture(source, config)
            entry["path"] = f"demo://models/{name}"
    off = {section for section, value in values.items() if value is None}
    for section in MOST.keys() - off:
        for key, count in MOST[section].items():
            given = values[section][key]
            values[section][key] = count if given is None else min(given, count)
    for section in REPLACED.keys() - off:
        values[section] |= REPLACED[section]
    _no_shorter_than_an_iteration(values["ppo"])
    for section in {"sft", "dpo", "rm", "ppo"} - off:
        _in_full_precision(values[section])
    for section in ("collect", "ppo", "evaluate"):
        sampling = values[section]["sampling"]
        sampling["max_new_tokens"] = min(sampling["max_new_tokens"], ANSWER_TOKENS)
    if config.capabilities is not None:
        values["capabilities"] |= QUESTIONS
    if config.sft.curation is not None:
        values["sft"]["curation"] |= CURATION
    for section, key in GIVEN:
        if section not in off and not (values[section][key] or "").startswith("run://"):
            values[section][key] = None
    values["rm"]["data"] |= {"held_out": [], "known_checkpoints": []}
    if config.stages and "sft" not in config.stages:
        _start_from_checkpoints(values)
    values |= {
        "name": f"{config.name}-rehearsal",
        "annotation": {"source": "simulated"},
        "demo": {"seed": config.seed, "checkpoints": checkpoints, **WORLD},
    }
    return Config.model_validate(values)


def _start_from_checkpoints(values: dict[str, Any]) -> None:
    """What a run without SFT begins with: the models as they are."""
    values["rm"]["model"] = values["models"]["main"]["path"]
    values["collect"]["models"] = values["collect"]["models"] or [
        {"path": entry["path"], "size": entry["size"], "stage": "base"}
        for entry in values["models"].values()
    ]


def _no_shorter_than_an_iteration(ppo: dict[str, Any]) -> None:
    """The horizon of an adaptive KL: a rehearsal may sample more responses than the config does."""
    episodes = ppo["rollout_batch"] * ppo["responses_per_prompt"]
    ppo["kl"]["horizon"] = max(ppo["kl"]["horizon"], episodes)


def _in_full_precision(section: dict[str, Any]) -> None:
    if section["tuning"]["method"] == "qlora":
        section["tuning"]["method"] = "lora"
    for key, value in section.items():
        if key.endswith("optimiser"):
            value["kind"] = "adamw"


def _architecture(source: SourceEntry, config: Config) -> str:
    """The registered architecture that a directory is named after, else the main model's."""
    plain = re.sub(r"[^a-z0-9]", "", Path(source.path).name.lower())
    named = [name for name in REGISTRY if plain.startswith(re.sub(r"[^a-z0-9]", "", name))]
    return max(named, key=len, default=config.main.architecture)
