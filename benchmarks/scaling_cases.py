"""The cases of scaling.py, and what their results say beside one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Case:
    """work: what trains. engine: a name of runtime.deepspeed, None for plain data parallelism.
    each: a step's batch is that of every GPU, not of all together. compiled: blocks are, and
    activations are kept. alone: the case on fewer GPUs that it is set beside. limit: seconds, start
    and loading included."""

    work: Literal["sft", "rm", "ppo", "killed", "pipeline"]
    gpus: int
    engine: str | None = None
    method: Literal["lora", "full"] = "lora"
    model: str = "baichuan2-7b"
    layers: int | None = None
    each: bool = False
    compiled: bool = False
    alone: str | None = None
    limit: int = 150


CUT, CUT_PPO = 8, 4
"""Layers of which one GPU of 80 GB holds the optimiser too; of PPO, those of two models."""
CASES = {
    "ppo_fast_1": Case("ppo", 1, each=True, compiled=True, limit=450),
    "sft_fast_1": Case("sft", 1, each=True, compiled=True, limit=240),
    "ppo_shared_1": Case("ppo", 1, limit=200),
    "sft_lora_1": Case("sft", 1),
    "rm_lora_1": Case("rm", 1),
    "sft_cut_1": Case("sft", 1, method="full", layers=CUT),
    "ppo_cut_1": Case("ppo", 1, method="full", layers=CUT_PPO),
}
for gpus in (2, 4, 8):
    full = (
        dict.fromkeys(("sft_full", "rm_full"))
        if gpus == 2
        else {name: f"{name}_{gpus // 2}_zero3" for name in ("sft_full", "rm_full")}
    )
    CASES |= {
        f"ppo_fast_{gpus}": Case(
            "ppo", gpus, each=True, compiled=True, alone="ppo_fast_1", limit=450
        ),
        f"sft_fast_{gpus}": Case(
            "sft", gpus, each=True, compiled=True, alone="sft_fast_1", limit=240
        ),
        f"sft_lora_{gpus}_zero2": Case("sft", gpus, "zero2", alone="sft_lora_1"),
        f"sft_cut_{gpus}_zero3": Case("sft", gpus, "zero3", "full", layers=CUT, alone="sft_cut_1"),
        f"sft_full_{gpus}_zero3": Case("sft", gpus, "zero3", "full", alone=full["sft_full"]),
        f"ppo_cut_{gpus}_zero3": Case(
            "ppo", gpus, "zero3", "full", layers=CUT_PPO, alone="ppo_cut_1"
        ),
        f"rm_lora_{gpus}_zero2": Case("rm", gpus, "zero2", alone="rm_lora_1"),
        f"ppo_shared_{gpus}": Case("ppo", gpus, alone="ppo_shared_1", limit=200),
        f"rm_full_{gpus}_zero3": Case("rm", gpus, "zero3", "full", alone=full["rm_full"]),
        f"sft_cut_{gpus}_zero2": Case("sft", gpus, "zero2", "full", layers=CUT, alone="sft_cut_1"),
        f"sft_lora_{gpus}_ddp": Case("sft", gpus, alone="sft_lora_1"),
        f"ppo_full_{gpus}_zero3": Case("ppo", gpus, "zero3", "full", limit=300),
        f"sft_13b_full_{gpus}_zero3": Case(
            "sft", gpus, "zero3", "full", model="baichuan2-13b", limit=240
        ),
        f"sft_13b_full_{gpus}_offload": Case(
            "sft", gpus, "zero3_offload", "full", model="baichuan2-13b", limit=420
        ),
        f"ppo_13b_shared_{gpus}": Case("ppo", gpus, model="baichuan2-13b", limit=240),
        f"ppo_13b_lora_{gpus}_zero3": Case("ppo", gpus, "zero3", model="baichuan2-13b", limit=480),
        f"ppo_13b_full_{gpus}_zero3": Case(
            "ppo", gpus, "zero3", "full", model="baichuan2-13b", limit=420
        ),
        f"killed_{gpus}": Case("killed", gpus, "zero2", limit=420),
        f"pipeline_lora_{gpus}_zero2": Case("pipeline", gpus, "zero2", limit=600),
        f"pipeline_full_{gpus}_zero3": Case("pipeline", gpus, "zero3", "full", limit=900),
    }
DEFAULT = tuple(name for name, case in CASES.items() if case.gpus == 1 or case.alone)
"""Speed and losses beside one GPU; the others are asked for by name."""


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """Of each case beside the one on fewer GPUs: the efficiency, and if the batch is the same the
    furthest that a loss is off, as a part of that loss; of PPO, what the first iteration says.
    loss_off_again: the same of the one GPU beside itself, where it was measured twice."""
    rows = {}
    for name, case in CASES.items():
        one, many = found.get(case.alone or "", {}), found.get(name, {})
        if case.alone and "rate" in one and "rate" in many:
            times = case.gpus / CASES[case.alone].gpus
            same = 1 if case.each else times  # how much less a GPU has to do
            rows[name] = {
                "beside": case.alone,
                "efficiency": round(many["rate"] / one["rate"] / times, 3),
            }
            if not case.each:
                rows[name]["loss_off"] = furthest(many, one)
                if "earlier" in one:
                    rows[name]["loss_off_again"] = furthest(one["earlier"], one)
            if "phases" in many:
                rows[name]["phase_efficiency"] = {
                    phase: round(one["phases"][phase] / seconds / same, 3)
                    for phase, seconds in many["phases"].items()
                }
    return rows


def furthest(result: dict[str, Any], other: dict[str, Any]) -> float:
    """That a loss is off the other one's, as a part of it."""
    pairs = zip(result["losses"], other["losses"], strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)
