"""The user's config at true size, random weights: does every stage run, how long, how much memory?

    python benchmarks/true_size.py WORK_DIR RESULT.json [--tiny]

Writes a random checkpoint of the main model's architecture and the demo's data into WORK_DIR, runs
configs/baichuan2_7b.yaml on them for a few steps a stage, and notes what the run's manifest says.
It shows that the stages work at this size; the speed of a few steps is no benchmark.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import random_models
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf.apps.run import run
from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import DemoSection
from rlhf.data.taxonomy import Taxonomy
from rlhf.demo import build, models
from rlhf.models.registry import named
from rlhf.runtime.run_dir import RunDir
from rlhf.runtime.usage import versions

FEW = {
    "sft": {"max_steps": 6, "max_length": 512, "batch_size": 8, "microbatch_size": 4},
    "collect": {"prompts": 16, "eval_prompts": 8, "batch_size": 64},
    "rm": {"max_steps": 4, "batch_size": 4, "eval_every": 4},
    "ppo": {
        "iterations": 2,
        "critic_warmup": 1,
        "rollout_batch": 16,
        "minibatch": 16,
        "checkpoint_every": 2,
    },
    "evaluate": {"prompts": 8, "batch_size": 8},
}
WORLD = {"sft_records": 200, "sft_eval_records": 16, "prompts": 64, "eval_prompts": 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    arguments = parser.parse_args()
    work: Path = arguments.work_dir
    write_inputs(work, tiny=arguments.tiny)
    start = time.monotonic()
    run(load_config(write_config(work)), start=None, only=None, redo=None, rehearsal=False)
    write_result(work, arguments.result, time.monotonic() - start)


def write_inputs(work: Path, *, tiny: bool) -> None:
    """Demo data in `work`/world, and a random checkpoint in the official layout in `work`/base."""
    world = DemoSection(checkpoints={"base": "baichuan2-7b"}, **WORLD)
    build.build(world, Taxonomy.load(resource("data_schemas/taxonomy.yaml")), work / "world")
    (work / "world/models/base").rename(work / "base")
    if tiny:
        return
    spec = named("baichuan2-7b")
    official = models.official_config(spec, spec.vocab_size) | {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    }
    pieces = json.loads((work / "base/config.json").read_text())["vocab_size"]
    random_models.fill_up(work / "base/tokenizer.model", pieces, spec.vocab_size)
    (work / "base/model.safetensors").unlink()
    (work / "base/config.json").write_text(json.dumps(official))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = AutoConfig.from_pretrained(work / "base")
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(work / "base")


def write_config(work: Path) -> Path:
    """The user's config with few steps, on the files in `work`."""
    world = work / "world"
    changes: dict[str, Any] = {section: dict(values) for section, values in FEW.items()}
    changes |= {
        "base": str(resource("configs/baichuan2_7b.yaml").resolve()),
        "name": "true-size",
        "output_dir": str(work / "runs"),
        "runtime": {"trackers": []},
        "models": {"main": {"path": str(work / "base")}},
        "data": {
            "sft": str(world / "sft.jsonl"),
            "sft_eval": str(world / "sft_eval.jsonl"),
            "prompts": str(world / "prompts.jsonl"),
            "prompts_eval": str(world / "prompts_eval.jsonl"),
        },
        "demo": {"checkpoints": {}, **WORLD},
        "annotation": {"source": "simulated"},
    }
    for section in ("collect", "ppo", "evaluate"):
        changes[section]["sampling"] = {"max_new_tokens": 64}
    changes["collect"]["models"] = [{"path": "run://sft/main", "size": "7b", "stage": "sft"}]
    path = work / "true_size.yaml"
    path.write_text(yaml.safe_dump(changes, sort_keys=False))
    return path


def write_result(work: Path, result: Path, seconds: float) -> None:
    stages = RunDir(work / "runs/true-size").manifests()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    content = {
        "workload": "true_size",
        "hardware": gpu,
        "versions": versions(),
        "seconds": round(seconds, 1),
        "peak_gib": round(max(stage.peak_memory_gib for stage in stages.values()), 2),
        "stages": {
            key: {
                "seconds": round(stage.seconds, 1),
                "peak_gib": round(stage.peak_memory_gib, 2),
                "summary": stage.summary,
            }
            for key, stage in stages.items()
        },
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
