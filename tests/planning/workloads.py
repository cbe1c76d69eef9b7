"""What the benchmarks measured, and the plan of each with the settings of its measurement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.models.registry import named
from rlhf.planning.memory import Rollout
from rlhf.planning.phases import Answering
from rlhf.planning.rates import H100, H200, Rates
from rlhf.planning.schedule import sampling_seconds
from rlhf.planning.setting import GIB, Setting
from rlhf.planning.stages import StagePlan, stage_plans

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results"


def measured(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def qlora(name: str, *more: str) -> Setting:
    few = ["sft.batch_size=1", f"models.main.architecture={name}", *more]
    return Setting(load_config(resource("configs/baichuan_7b_qlora.yaml"), few))


def qlora_plan(name: str) -> StagePlan:
    """Those figures are from before the loss was computed in chunks."""
    (plan,) = stage_plans(qlora(name, "sft.packing=false", "sft.loss_chunk=null"), "sft")
    return plan


def rollout(batch: int, rates: Rates = H100) -> tuple[int, float, float]:
    """Slots, the peak in GiB and seconds."""
    setting = Setting(load_config(resource("configs/baichuan2_7b.yaml")), rates=rates)
    spec, work = named("baichuan2-7b"), Rollout(batch, 128, 256, 256)
    model = Answering("rollout", spec, work)
    slots = model.slots(setting)
    return slots, model.phase(setting).peak / GIB, sampling_seconds(setting, spec, work, slots)


def rm_lora(gpus: int, engine: str) -> tuple[float, float]:
    """Two pairs at once, without what comes when it is saved: the peak in GiB, seconds a step."""
    keys = ["batch_size=16", "microbatch_size=2", "share_prompt=false", "data.max_length=513"]
    keys += ["gradient_checkpointing=true", "tuning.dropout=0"]
    config = load_config(
        resource("configs/baichuan2_7b.yaml"),
        [
            "collect.responses_per_prompt=2",
            f"runtime.deepspeed={engine}",
            *(f"rm.{key}" for key in keys),
        ],
    )
    (plan,) = stage_plans(Setting(config, gpus=gpus, rates=H200), "rm")
    peak = max(p.peak for p in plan.phases if p.name in ("training", "evaluation")) / GIB
    return peak, plan.duration.seconds


SFT = ["sft.batch_size=16", "sft.max_length=2048"]
WHOLE = ["tuning.method=full", "optimiser.kind=adamw-8bit", "split_weights=true"]
ADAPTERS = ["tuning.r=8", "tuning.dropout=0"]


def tuned(case: str, name: str) -> StagePlan:
    """Fine-tuning with the settings that the file says it was measured with."""
    given = {"loss_chunk": None, "gradient_checkpointing": False}
    given |= measured(case)["settings"]["ours"][name]["setting"]
    given |= {"batch_size": 32} if case.endswith(("_32", "_budget")) else {}
    keys = [*(WHOLE if case.startswith("sft_full") else ADAPTERS)]
    keys += [f"{key}={json.dumps(value)}" for key, value in given.items()]
    config = load_config(
        resource("configs/baichuan2_7b.yaml"), SFT + [f"sft.{key}" for key in keys]
    )
    (plan,) = stage_plans(Setting(config, rates=H200), "sft")
    return plan


def pairs(group: str, at_once: int) -> tuple[float, float]:
    """Pairs of 512 tokens each side that share nothing: GiB in training, seconds of 8 pairs."""
    keys = ["batch_size=8", f"microbatch_size={at_once}", "share_prompt=false"]
    keys.append("data.max_length=513")
    keys.append(f"compile={json.dumps(group == 'compiled')}")
    config = load_config(
        resource("configs/baichuan2_7b.yaml"),
        ["collect.responses_per_prompt=2", *(f"rm.{key}" for key in keys)],
    )
    (plan,) = stage_plans(Setting(config, rates=H200), "rm")
    training = next(phase for phase in plan.phases if phase.name == "training")
    return training.peak / GIB, plan.duration.seconds


H200_GIB = 139.0
EARLIER = replace(H200, block=5.7e-5, of_joined=H200.of_adapters)
"""As the card was when a workload was measured before adapters were joined to the weights, and the
engine waited for less."""
JOINED = {("ppo_32", "compiled")}
"""Those measured since."""
AGAIN, SCORED = "gradient_checkpointing=true", "scoring_microbatch=32"
LONG = ["microbatch=4", "scoring_microbatch=4", "compile=true", AGAIN]
PPO = {
    ("ppo_32", "eager"): ["microbatch=8"],
    ("ppo_32", "compiled"): ["microbatch=8", "compile=true"],
    ("ppo_128", "compiled"): ["microbatch=8", "compile=true", SCORED],
    ("ppo_nf4", "again"): ["microbatch=8", "tuning.method=qlora", AGAIN],
    ("ppo_13b", "eager"): ["microbatch=8", SCORED],
    ("growth_16_256", "compiled"): ["microbatch=8", "compile=true", SCORED],
    ("growth_64_256", "compiled"): ["microbatch=8", "compile=true", SCORED],
    ("growth_256_256", "compiled"): ["microbatch=8", "compile=true", SCORED],
    ("growth_32_512", "long"): LONG,
    ("growth_32_1024", "long"): LONG,
    ("growth_32_2048", "long"): LONG,
}


def ppo(case: str, name: str) -> tuple[Setting, StagePlan]:
    sizes = measured(case)["options"][name].get("settings", {"prompts": 32, "tokens": 256})
    prompts = sizes["prompts"]
    keys = [f"minibatch={min(32, prompts)}", f"rollout_batch={prompts}"]
    keys += [f"max_prompt_tokens={sizes['tokens']}", f"sampling.max_new_tokens={sizes['tokens']}"]
    keys += ["gradient_checkpointing=false", "old_logprobs=engine", *PPO[case, name]]
    model = "13b" if case == "ppo_13b" else "7b"
    config = load_config(
        resource(f"configs/baichuan2_{model}.yaml"), [f"ppo.{key}" for key in keys]
    )
    rates = H200 if (case, name) in JOINED else EARLIER
    setting = Setting(config, memory=H200_GIB, rates=rates)
    (plan,) = stage_plans(setting, "ppo")
    return setting, plan


SCALING = {
    "sft_lora": ["sft.batch_size=16", "sft.microbatch_size=2", "sft.loss_chunk=1024"],
    "sft_full": ["sft.batch_size=32", "sft.microbatch_size=4", "sft.loss_chunk=null"],
    "ppo_shared": ["ppo.microbatch=4", "ppo.rollout_microbatch=32", "ppo.tuning.r=16"],
    "ppo_fast": [
        "ppo.microbatch=8",
        "ppo.compile=true",
        "ppo.old_logprobs=engine",
        "ppo.scoring_microbatch=32",
        "ppo.tuning.r=16",
    ],
    "ppo_full": ["ppo.microbatch=2", "ppo.scoring_microbatch=null", "ppo.rollout_microbatch=32"],
}
ROWS_OF_2048 = [
    "sft.packing=false",
    "sft.max_length=2048",
    "sft.gradient_checkpointing=true",
    "sft.tuning.dropout=0",
]
PPO_ROWS = [
    "ppo.responses_per_prompt=1",
    "ppo.epochs=1",
    "ppo.max_prompt_tokens=256",
    "ppo.sampling.max_new_tokens=256",
    "ppo.gradient_checkpointing=false",
]
CASES = {
    "sft_lora_1": ("sft_lora", 1, "null"),
    "sft_lora_2_zero2": ("sft_lora", 2, "zero2"),
    "sft_lora_4_zero2": ("sft_lora", 4, "zero2"),
    "sft_full_2_zero3": ("sft_full", 2, "zero3"),
    "sft_full_4_zero3": ("sft_full", 4, "zero3"),
    "sft_13b_full_4_zero3": ("sft_full", 4, "zero3"),
    "ppo_shared_1": ("ppo_shared", 1, "null"),
    "ppo_shared_2": ("ppo_shared", 2, "null"),
    "ppo_fast_1": ("ppo_fast", 1, "null"),
    "ppo_fast_2": ("ppo_fast", 2, "null"),
    "ppo_fast_4": ("ppo_fast", 4, "null"),
    "ppo_full_4_zero3": ("ppo_full", 4, "zero3"),
}


def episodes(case: str) -> int:
    """Of an iteration, on all GPUs together; where each has its own, 64 of them."""
    return 64 * (CASES[case][1] if "fast" in case else 1)


def scaled(case: str) -> StagePlan:
    """On several GPUs (scaling.json)."""
    kind, gpus, engine = CASES[case]
    stage = case.split("_")[0]
    count = episodes(case)
    prompts = [*PPO_ROWS, f"ppo.rollout_batch={count}", f"ppo.minibatch={count // 2}"]
    keys = [*SCALING[kind], *(ROWS_OF_2048 if stage == "sft" else prompts)]
    keys += ["models.main.architecture=baichuan2-13b"] if "13b" in case else []
    base = "baichuan2_7b_full" if kind.endswith("full") else "baichuan2_7b"
    config = load_config(resource(f"configs/{base}.yaml"), [*keys, f"runtime.deepspeed={engine}"])
    (plan,) = stage_plans(Setting(config, gpus=gpus, rates=EARLIER), stage)
    return plan
