"""A DeepSpeed configuration made for a config: as little spread over the GPUs as memory allows.

ZeRO-2 where it fits, for it moves no weights. Else ZeRO-3, with as many layers left whole on every
GPU as there is room for; the optimiser goes to the host's memory only where nothing else helps. On
several hosts ZeRO-3 keeps a copy of the weights in each (hpZ) where that fits too. What the run's
PPO would refuse is not chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlhf.config.schema import Config
from rlhf.models.adapter import Task
from rlhf.models.spec import ModelSpec
from rlhf.planning.engines import HALF, Engine
from rlhf.planning.models import layer_sizes
from rlhf.planning.ppo_phases import check_spread
from rlhf.planning.setting import GIB, Setting
from rlhf.planning.stages import stage_plans

SUPERVISED: dict[str, Task] = {"sft": "causal", "dpo": "causal", "rm": "reward"}
BUCKET, PREFETCH = 100_000_000, 50_000_000
"""In parameters: reduced at once, of which DeepSpeed holds nine times as many; fetched ahead."""


@dataclass(frozen=True)
class Decision:
    """values: the JSON. whole: layers that every GPU holds, of `layers` that there are.
    peak_gib: of the stage that needs most."""

    values: dict[str, Any]
    engine: Engine
    whole: int
    layers: int
    peak_gib: float


def decide(
    config: Config,
    *,
    gpus: int,
    gpu_memory: float = 80.0,
    per_host: int = 8,
    specs: Mapping[str, ModelSpec] | None = None,
) -> Decision:
    """The configuration for the supervised stages of a config.

    Args:
        gpus: of all hosts. gpu_memory: GiB of each. per_host: how many share a host.
        specs: as in `rlhf.planning.plan`.

    Raises:
        ValueError: one GPU only, no supervised stage, PPO would refuse every engine, or none makes
            the stages fit.
    """
    if gpus < 2:
        raise ValueError("--deepspeed spreads a model over GPUs: give --gpus 2 or more")
    setting = Setting(config, gpus, gpu_memory, specs or {})
    stages = [stage for stage in SUPERVISED if stage in setting.stages]
    if not stages:
        raise ValueError(
            f"{config.name}: DeepSpeed is for sft, dpo and rm, and it has none of them"
        )
    spread = "ppo" in setting.stages and config.ppo.roles == "separate"
    if "ppo" in setting.stages:
        check_spread(replace(setting, chosen=Engine(gpus, stage=2)))
    for engine in _engines(gpus, per_host):
        if engine.offload and spread:
            break
        peak = _peak(replace(setting, chosen=engine), stages)
        if peak is not None and peak <= setting.usable:
            return _whole_layers(replace(setting, chosen=engine), stages[-1], peak)
    raise ValueError(
        f"{config.name}: no engine fits {gpus} GPUs of {gpu_memory:g} GiB; more GPUs, a smaller "
        "microbatch_size or gradient_checkpointing would (rlhf plan shows by how much)"
        + "; with ppo.roles: shared, or without ppo in stages, the optimiser could be on the CPU"
        * spread
    )


def _whole_layers(setting: Setting, stage: str, peak: int) -> Decision:
    """Leaves whole what there is room for. DeepSpeed goes through the weights in the model's order
    and keeps those of at most so many entries, up to so many in all: from the first layer on."""
    engine, spec = setting.engine, setting.main
    if engine.stage < 3:
        return Decision(_json(engine), engine, spec.layers, spec.layers, peak / GIB)
    sizes = layer_sizes(spec, SUPERVISED[stage], getattr(setting.config, stage).tuning)
    small = sum(size for size in sizes if size <= spec.hidden_size)
    each = sum(sizes) - small
    saved = HALF * (engine.gpus - 1) / engine.gpus  # bytes a weight that being spread saves
    room = (setting.usable - peak) / saved - spec.layers * small
    layers = max(0, min(spec.layers, int(room / each)))
    kept = replace(engine, whole=layers * each + spec.layers * small + spec.hidden_size)
    values = _json(kept)
    largest = max(sizes) if layers else spec.hidden_size
    values["zero_optimization"]["stage3_param_persistence_threshold"] = largest
    return Decision(values, kept, layers, spec.layers, (peak + saved * kept.whole) / GIB)


def _engines(gpus: int, per_host: int) -> Iterator[Engine]:
    """From the one that moves least to the one that needs least."""
    plain = Engine(gpus, 2, bucket=BUCKET, prefetch=PREFETCH)
    yield plain
    if gpus > per_host:
        yield replace(plain, stage=3, hpz=per_host)
    yield replace(plain, stage=3)
    yield replace(plain, offload=True)
    yield replace(plain, stage=3, offload=True)


def _peak(setting: Setting, stages: list[str]) -> int | None:
    """Bytes, of the stage that needs most; None where one cannot run under the engine."""
    config, engine = setting.config, setting.engine
    in_8_bits = any(getattr(config, s).optimiser.kind == "adamw-8bit" for s in stages)
    if engine.offload and in_8_bits:
        return None
    if engine.stage == 3:
        compiled = "sft" in stages and config.sft.compile
        packed = any(getattr(config, stage).tuning.method == "qlora" for stage in stages)
        if "dpo" in stages or packed or compiled:
            return None
        all_logits = config.sft.model_copy(update={"loss_chunk": None})
        setting = replace(setting, config=config.model_copy(update={"sft": all_logits}))
    return max(plan.height.peak for stage in stages for plan in stage_plans(setting, stage))


def _json(engine: Engine) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": engine.stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": engine.bucket,
        "allgather_bucket_size": engine.bucket,
    }
    if engine.stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": 0,
            "stage3_model_persistence_threshold": engine.whole,
            "stage3_prefetch_bucket_size": engine.prefetch,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
        del zero["allgather_bucket_size"]
    if engine.hpz > 1:
        zero["zero_hpz_partition_size"] = engine.hpz
    if engine.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return {"zero_optimization": zero}
