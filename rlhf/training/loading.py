"""The model that a supervised stage trains, from disk; under ZeRO-3 spread while it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from rlhf.models.from_main import fill, from_main
from rlhf.models.spread import layers
from rlhf.runtime.distributed import Runtime, world_size
from rlhf.training.engine import (
    Engine,
    Section,
    accumulation,
    engine_config,
    precision_of,
    shards_weights,
)


def load_to_train(
    load: Callable[..., Any],
    path: str | Path,
    section: Section,
    runtime: Runtime,
    engine: Engine | None,
) -> Any:
    """A stage's model in the run's type, with 4-bit weights if the section asks for them.

    load: `rlhf.models.load.load_causal_lm` or `load_reward_model`.

    Under ZeRO-3 the main process alone reads the files, and no process has a whole model: one layer
    at a time is handed to all of them, and spread.
    """
    if not shards_weights(engine) or world_size() == 1:
        base = "nf4" if section.tuning.method == "qlora" else None
        return load(path, dtype=runtime.dtype, device=runtime.device, quantization=base)
    assert engine is not None
    model = from_main(partial(_plain, load, path, runtime.dtype))
    config = engine_config(engine, section, accumulation(section), precision_of(runtime.dtype))
    spread_by_deepspeed(model, config, runtime.device)
    return model


def spread_by_deepspeed(
    model: PreTrainedModel, config: dict[str, Any], device: torch.device
) -> None:
    """Leave this process its part of the model, in place, as DeepSpeed's engine would do with a
    whole one.

    model: as `rlhf.models.from_main.from_main` gives it. config: DeepSpeed's.
    """
    import deepspeed
    from deepspeed.utils import groups

    for part in (*layers(model), *_leaves(model)):
        fill(part, device)
        # With hpZ the first model of a run makes the groups, and the next would make them again.
        hosts = groups._get_zero_param_intra_parallel_group()
        deepspeed.zero.Init(
            module=part, config_dict_or_path=config, zero_param_parallel_group=hosts
        )
    fill(model, device)  # buffers that belong to the whole


def _plain(load: Callable[..., Any], path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    model = load(path, dtype=dtype, device="cpu", mapped=True)
    if isinstance(model, PeftModel):
        raise ValueError(f"{path}: an adapter; name its base or a whole checkpoint instead")
    whole: PreTrainedModel = model
    return whole


def _leaves(model: nn.Module) -> list[nn.Module]:
    """The modules that have parameters and no modules in them."""
    return [part for part in model.modules() if part._parameters and not part._modules]
