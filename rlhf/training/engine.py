"""DeepSpeed under the supervised stages: its configuration from ours, and whole weights back.

What a stage's section says (batch, gradient clipping, optimiser, schedule, precision) is written
into DeepSpeed's configuration, whose own defaults differ: it would clip gradients at 1.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from rlhf.config.base import check_multiple
from rlhf.config.paths import resource
from rlhf.config.schema import (
    Config,
    DPOSection,
    RMSection,
    RuntimeSection,
    SFTSection,
)
from rlhf.models.spread import check_learning
from rlhf.runtime.devices import choose_device
from rlhf.runtime.distributed import is_main_process, world_size

Section = SFTSection | DPOSection | RMSection
Engine = Mapping[str, Any]
"""A DeepSpeed configuration as the user gives it: `zero_optimization` and what belongs to it."""
OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)
"""Keys that follow from the stage's section."""
BUCKET = 500_000_000
"""DeepSpeed's reduce_bucket_size by default."""


def check_processes(config: Config, stages: Collection[str]) -> None:
    """Raises ValueError, before the first of the stages has run, for what one could not do with so
    many processes, or with DeepSpeed's configuration."""
    engine = read_engine(config.runtime)
    if shards_weights(engine) and config.dpo is not None and "dpo" in stages:
        raise ValueError(
            "dpo does not run under ZeRO-3, which hides the head's weight from TRL's loss; run it "
            "with --only dpo --set runtime.deepspeed=zero2, or set dpo to null"
        )
    for stage in ("sft", "dpo", "rm"):
        section: Section | None = getattr(config, stage)
        if section is not None and stage in stages:
            try:
                accumulation(section)
                if engine is not None:
                    check_learning(section, zero_stage(engine), offloads(engine))
            except ValueError as error:
                raise ValueError(f"{stage}.{error}") from None


def accumulation(section: Section) -> int:
    """Microbatches of each process in a batch. Raises ValueError when they do not come out even."""
    microbatches = section.batch_size // section.microbatch_size
    whole, part = "batch_size / microbatch_size", "the number of processes"
    check_multiple(whole, microbatches, part, world_size())
    return microbatches // world_size()


def read_engine(section: RuntimeSection) -> Engine | None:
    """The configuration that `runtime.deepspeed` names: a file, or one that comes with the package.

    Raises ValueError when there is none, it is damaged, it says what our sections say, or DeepSpeed
    is not installed.
    """
    name = section.deepspeed
    if name is None:
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError(
            "runtime.deepspeed needs DeepSpeed; pip install 'baichuan-rlhf[deepspeed]', or null"
        )
    path = _find(name)
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"runtime.deepspeed: {path} is no JSON file ({error})") from None
    doubled = [key for key in OURS if key in values]
    if doubled:
        raise ValueError(
            f"{path}: {', '.join(doubled)} follow from the stages' sections; leave them out"
        )
    os.environ.setdefault("DS_ACCELERATOR", choose_device(section).type)  # or it would guess aloud
    # What a user's own file has it compile stays in this environment, whose torch it is made for.
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
    _skip_shared_memory()
    return values


def zero_stage(engine: Engine | None) -> int | None:
    """The stage of ZeRO that the configuration names."""
    stage: int | None = (engine or {}).get("zero_optimization", {}).get("stage")
    return stage


def offloads(engine: Engine | None) -> bool:
    """Whether the configuration has the optimiser on the CPU."""
    offload = (engine or {}).get("zero_optimization", {}).get("offload_optimizer") or {}
    return bool(offload.get("device", "none") != "none")


def shards_weights(engine: Engine | None) -> bool:
    """Whether it is ZeRO-3, where a process has a part of every weight."""
    return zero_stage(engine) == 3


def precision_of(dtype: torch.dtype) -> str:
    """As the Trainer and DeepSpeed call what they compute in."""
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "float32")


def engine_config(
    engine: Engine,
    section: Section,
    accumulation: int,
    precision: str,
    universal: bool = False,
) -> dict[str, Any]:
    """DeepSpeed's whole configuration for a stage.

    precision: "bf16", "fp16" or "float32". universal: it resumes from a universal checkpoint.

    An optimiser on the CPU is torch's, too: as fast as DeepSpeed's own, which is compiled first.
    """
    return {
        **engine,
        "train_micro_batch_size_per_gpu": section.microbatch_size,
        "gradient_accumulation_steps": accumulation,
        "checkpoint": {"load_universal": universal},
        "gradient_clipping": section.optimiser.grad_clip,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
    }


def fit_buckets(zero: dict[str, Any], model: nn.Module) -> None:
    """No bucket of gradients larger than all that learns.

    DeepSpeed makes two of the configured size, whatever there is to learn: of its default size they
    take 1.9 GiB, the gradients of rank-16 adapters on 7B 72 MB.

    zero: DeepSpeed's `zero_optimization`, changed in place. model: as the optimiser will see it.
    """
    size = zero.get("reduce_bucket_size", BUCKET)
    if size != "auto":  # the square of the hidden size
        learning = (p for p in model.parameters() if p.requires_grad)
        whole = sum(int(getattr(p, "ds_numel", p.numel())) for p in learning)
        zero["reduce_bucket_size"] = min(int(size), whole)


def let_accelerate_use_deepspeed() -> None:
    """On a CPU accelerate either takes several processes for one or leaves DeepSpeed out."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True).distributed_type = DistributedType.DEEPSPEED


def gather_on_main(model: nn.Module) -> None:
    """Put whole weights in the place of spread ones, in the main process's host memory, one after
    another; the other processes' model stays as it is. For one that has learnt and is to be saved.
    """
    spread: list[tuple[nn.Module, str, Any]] = [
        (owner, name, parameter)
        for owner in model.modules()
        for name, parameter in owner._parameters.items()
        if hasattr(parameter, "ds_id")
    ]
    if not spread:
        return
    import deepspeed

    for owner, name, parameter in spread:
        with deepspeed.zero.GatheredParameters([parameter]):
            whole = parameter.detach().to("cpu", copy=True) if is_main_process() else None
        if whole is not None:
            owner._parameters[name] = nn.Parameter(whole, parameter.requires_grad)


def forget_engine() -> None:
    """Models are loaded whole again: transformers would spread them as long as it remembers. And
    linear layers are torch's own again, which ZeRO-3 has replaced."""
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    own = getattr(InsertPostInitMethodToModuleSubClasses, "linear_bk", None)
    functional.linear = own or functional.linear


def let_go(wrapped: Any) -> None:
    """After the last use of a model that DeepSpeed has trained, or it would stay in memory
    for the run's other stages, with gradients and optimiser.

    wrapped: DeepSpeed's engine; of anything else there is nothing to let go of.

    Its hooks lie in autograd's own graph, where Python's collector does not see that hooks, engine
    and model are held by nothing but each other; and ZeRO-3 keeps modules in a list, and in
    the cache of a method.
    """
    if not hasattr(wrapped, "destroy"):
        return
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    wrapped.destroy()
    FWD_MODULE_STACK.clear()  # no other engine is there while a stage trains
    for method in vars(PartitionedParameterCoordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()


def computing_parameters(model: PreTrainedModel) -> int:
    """All but the embedding table's, as the rule for FLOPs has it, also where they are spread."""
    if not any(hasattr(parameter, "ds_numel") for parameter in model.parameters()):
        return model.num_parameters(exclude_embeddings=True)
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    return sum(int(vars(p)["ds_numel"]) for p in model.parameters() if id(p) not in tables)


def _find(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    folder = resource("configs/deepspeed")
    path = folder / f"{Path(name).name.removesuffix('.json')}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
        raise ValueError(f"runtime.deepspeed: {name} is not there; name a file, or one of {known}")
    return path


def _skip_shared_memory() -> None:
    """On a CPU DeepSpeed would first compile collectives that only its inference calls, for two
    minutes."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {
        **deepspeed.ops.__compatible_ops__,
        "deepspeed_shm_comm": False,
    }
