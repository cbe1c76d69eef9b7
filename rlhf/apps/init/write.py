"""The config that the answers make: complete, with comments in the language asked for."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jinja2

from rlhf.apps.init.questions import Answers
from rlhf.data.fields import UNKNOWN
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import RankingRecord
from rlhf.models.registry import REGISTRY, spec_of
from rlhf.models.spec import ModelSpec

TEMPLATE = Path(__file__).with_name("config.yaml.jinja")
SFT_BATCH, RM_BATCH, PPO_BATCH = 64, 32, 64
LENGTHS, NEW_TOKENS = {"sft": 2048, "rm": 1536}, 512
MICROBATCHES: dict[str, dict[str, int]] = {
    "lora": {"sft": 4, "rm": 1, "ppo": 8, "rollout": 128, "sampling": 64, "loss_chunk": 1024},
    "qlora": {"sft": 1, "rm": 1, "ppo": 1, "rollout": 32, "sampling": 16, "loss_chunk": 128},
    "full": {
        **{"sft": 2, "rm": 1, "ppo": 4, "scoring": 8, "rollout": 16, "sampling": 64},
        "loss_chunk": 512,  # where one process has all weights; ZeRO-3 takes none
    },
}
"""What the packaged configs of each kind have (configs/baichuan2_7b.yaml, _24gb, _full)."""


def name_of(answers: Answers) -> str:
    """The run's name, and the config's: the model's, and what is tuned."""
    model = re.sub(r"[^a-z0-9]+", "_", answers["model"].resolve().name.lower()).strip("_")
    return f"{model or 'model'}_{answers['tuning']}"


def render(answers: Answers, out: Path) -> str:
    """The YAML text. out: where it will lie, which its commands name."""
    chinese = answers["language"] == "zh"
    template = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    ).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        **_values(answers),
        out=shlex.quote(str(out)),
        say=lambda english, mandarin: mandarin if chinese else english,
        quoted=lambda path: json.dumps(str(path), ensure_ascii=False),
    )


def _values(answers: Answers) -> dict[str, Any]:
    spec, data = spec_of(answers["model"]), answers["data"]
    processes, tuning = max(1, answers["gpus"]), answers["tuning"]
    at_once = MICROBATCHES[tuning]
    demonstrations = data if data.is_file() else data / "sft.jsonl"
    prompts = demonstrations.parent / "prompts.jsonl"
    rankings = demonstrations.parent / "rankings.jsonl"
    return {
        **answers,
        "name": name_of(answers),
        "architecture": spec.name,
        "size": size_of(spec),
        "demonstrations": demonstrations,
        "prompts": prompts,
        "rankings": rankings if rankings.is_file() else None,
        "no_family": _families(rankings) - {spec.family} == {UNKNOWN},
        # Demonstrations alone are enough for the first stage, and what there is says what is meant.
        "sft_alone": demonstrations.is_file() and not prompts.is_file(),
        "processes": processes,
        "spread": tuning == "full" and processes > 1,  # a copy of all that learns is for no GPU
        "at_once": at_once,
        "sft_batch": _multiple(SFT_BATCH, at_once["sft"] * processes),
        "rm_batch": _multiple(RM_BATCH, at_once["rm"] * processes),
        "minibatch": _multiple(PPO_BATCH, at_once["ppo"] * processes),
        "read": {name: min(most, spec.context) for name, most in LENGTHS.items()},
        "new_tokens": min(NEW_TOKENS, spec.context // 2),  # the prompt needs room as well
    }


def _families(rankings: Path) -> set[str]:
    """Of the ranked responses; none where the file is damaged, which rlhf doctor tells."""
    try:
        records = read_jsonl(rankings, RankingRecord)
        return {each.provenance.family for record in records for each in record.responses}
    except ValueError:
        return set()


def size_of(spec: ModelSpec) -> str:
    """As the architecture is called where it has its sizes, 7b; else counted, 1.7b or 135m."""
    official = REGISTRY[spec.name]
    named = re.search(r"-(\d+b)$", spec.name)
    if named and (spec.hidden_size, spec.layers) == (official.hidden_size, official.layers):
        return named[1]
    count = spec.parameters
    return f"{count / 1e9:.1f}b" if count > 1e9 else f"{count / 1e6:.0f}m"


def _multiple(least: int, part: int) -> int:
    """Of `part`, and at least `least`: every process takes as many of each batch."""
    return -(-least // part) * part
