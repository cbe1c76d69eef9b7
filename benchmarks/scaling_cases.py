"""The cases of scaling.py, and what their results say beside one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Case:
    """work: what trains. engine: a name of runtime.deepspeed, None for plain data parallelism.
    alone: the case of one GPU with the same batch. limit: seconds, start and loading included."""

    work: Literal["sft", "rm", "ppo", "killed", "pipeline"]
    gpus: int
    engine: str | None = None
    method: Literal["lora", "full"] = "lora"
    model: str = "baichuan2-7b"
    layers: int | None = None
    alone: str | None = None
    limit: int = 120


CUT = 8
CASES = {
    "sft_lora_1": Case("sft", 1),
    "ppo_shared_1": Case("ppo", 1, limit=200),
    "sft_cut_1": Case("sft", 1, method="full", layers=CUT),
    "rm_lora_1": Case("rm", 1),
    "sft_lora_2_zero2": Case("sft", 2, "zero2", alone="sft_lora_1"),
    "ppo_shared_2": Case("ppo", 2, alone="ppo_shared_1", limit=200),
    "sft_full_2_zero3": Case("sft", 2, "zero3", "full", limit=150),
    "sft_cut_2_zero3": Case("sft", 2, "zero3", "full", layers=CUT, alone="sft_cut_1"),
    "sft_lora_2_ddp": Case("sft", 2, alone="sft_lora_1"),
    "sft_cut_2_zero2": Case("sft", 2, "zero2", "full", layers=CUT, alone="sft_cut_1"),
    "rm_lora_2_zero2": Case("rm", 2, "zero2", alone="rm_lora_1"),
    "ppo_cut_2_zero3": Case("ppo", 2, "zero3", "full", layers=CUT, limit=150),
    "killed_2": Case("killed", 2, "zero2", limit=420),
    "rm_full_2_zero3": Case("rm", 2, "zero3", "full", limit=150),
    "ppo_13b_shared_2": Case("ppo", 2, model="baichuan2-13b", limit=240),
    "sft_13b_full_2_offload": Case(
        "sft", 2, "zero3_offload", "full", model="baichuan2-13b", limit=420
    ),
}
DEFAULT = tuple(CASES)[:12]
for gpus in (2, 4, 8):
    CASES |= {
        f"pipeline_lora_{gpus}_zero2": Case("pipeline", gpus, "zero2", limit=600),
        f"pipeline_full_{gpus}_zero3": Case("pipeline", gpus, "zero3", "full", limit=900),
    }
for gpus in (4, 8):
    CASES |= {
        f"sft_lora_{gpus}_zero2": Case("sft", gpus, "zero2", alone="sft_lora_1"),
        f"sft_full_{gpus}_zero3": Case("sft", gpus, "zero3", "full", limit=150),
        f"sft_cut_{gpus}_zero3": Case("sft", gpus, "zero3", "full", layers=CUT, alone="sft_cut_1"),
        f"rm_lora_{gpus}_zero2": Case("rm", gpus, "zero2", alone="rm_lora_1"),
        f"rm_full_{gpus}_zero3": Case("rm", gpus, "zero3", "full", limit=150),
        f"ppo_shared_{gpus}": Case("ppo", gpus, alone="ppo_shared_1", limit=200),
        f"ppo_full_{gpus}_zero3": Case("ppo", gpus, "zero3", "full", limit=300),
        f"sft_13b_full_{gpus}_zero3": Case(
            "sft", gpus, "zero3", "full", model="baichuan2-13b", limit=300
        ),
        f"ppo_13b_full_{gpus}_zero3": Case(
            "ppo", gpus, "zero3", "full", model="baichuan2-13b", limit=420
        ),
        f"killed_{gpus}": Case("killed", gpus, "zero2", limit=420),
    }
"""What about 480 seconds on two H100s have room for; the others are asked for by name."""


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """Of each case beside the one of one GPU: the efficiency, and the furthest that a loss is off,
    as a part of that loss; of PPO, what the first iteration says."""
    rows = {}
    for name, case in CASES.items():
        one, many = found.get(case.alone or "", {}), found.get(name, {})
        if "rate" in one and "rate" in many:
            pairs = zip(many["losses"], one["losses"], strict=True)
            rows[name] = {
                "beside": case.alone,
                "efficiency": round(many["rate"] / one["rate"] / case.gpus, 3),
                "loss_off": max(abs(a - b) / abs(b) for a, b in pairs),
            }
            if "phases" in many:
                rows[name]["phase_efficiency"] = {
                    phase: round(one["phases"][phase] / seconds / case.gpus, 3)
                    for phase, seconds in many["phases"].items()
                }
    return rows
