"""Weights spread over the processes: ZeRO (Rajbhandari et al. 2020), by torch's `fully_shard`.

Each process keeps a part of every weight, and with it of its gradient and of its optimiser's state.
A layer's whole weights are gathered when it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from rlhf.config.base import check_multiple
from rlhf.config.schema import DPOSection, PPOSection, RMSection, SFTSection, TuningSection
from rlhf.models.from_main import fill

ZeroStage = Literal[2, 3]


def check_learning(
    section: SFTSection | DPOSection | RMSection, zero: int | None, offload: bool
) -> None:
    """Raises ValueError for what a supervised stage cannot do under DeepSpeed of stage `zero`, with
    the optimiser on the CPU where `offload`."""
    if isinstance(section, SFTSection) and section.split_weights:
        raise ValueError("split_weights is not for DeepSpeed, which has its own; set it to false")
    if offload and section.optimiser.kind == "adamw-8bit":
        raise ValueError(
            "optimiser.kind is adamw-8bit, which is for GPUs, but runtime.deepspeed puts the "
            "optimiser on the CPU; set it to adamw"
        )
    if zero != 3:
        return
    if section.tuning.method == "qlora":
        raise ValueError(
            "tuning.method is qlora, but ZeRO-3 does not spread 4-bit weights; take ZeRO-2 "
            "(runtime.deepspeed: zero2), or lora"
        )
    if isinstance(section, SFTSection) and section.compile:
        raise ValueError("compile does not work with ZeRO-3; set it to false")
    if isinstance(section, SFTSection) and section.loss_chunk:
        # Processes have differently many chunks, and each would wait for the head's weight.
        raise ValueError("loss_chunk does not work with ZeRO-3; set it to null")


def check_roles(section: PPOSection, processes: int, zero: int | None, offload: bool) -> None:
    """Raises ValueError for what PPO cannot do in so many processes, and for what separate roles
    cannot where DeepSpeed's configuration names stage `zero` and, with `offload`, has an optimiser
    on the CPU. One trunk for all roles is whole in every process, whatever it names.

    Processes must not compute differently often: each would wait for weights that the others do not
    send.
    """
    check_multiple("ppo.minibatch", section.minibatch, "the number of processes", processes)
    if section.roles == "shared" or processes == 1:
        return
    if offload:
        raise ValueError(
            "runtime.deepspeed puts the optimiser on the CPU, which ppo with separate roles "
            "cannot; name the stages before it in stages, and run it with --only ppo --set "
            "stages=null --set runtime.deepspeed=zero3"
        )
    if zero not in (2, 3):
        return
    check_bits(section.tuning)
    if section.microbatch_tokens is not None:
        raise ValueError(
            "ppo.microbatch_tokens gives processes differently many microbatches, which ZeRO does "
            "not allow; set it to null, and ppo.microbatch"
        )
    if section.pretraining is not None:
        rows = section.pretraining.rows
        check_multiple("ppo.pretraining.rows", rows, "the number of processes", processes)
    if "adamw-8bit" in (section.actor_optimiser.kind, section.critic_optimiser.kind):
        raise ValueError("ppo optimiser kind adamw-8bit is not spread by ZeRO; set adamw")


def check_bits(tuning: TuningSection) -> None:
    """Raises ValueError for 4-bit weights, which are not spread."""
    if tuning.method == "qlora":
        raise ValueError(
            "ppo.tuning.method: qlora, and ZeRO does not spread 4-bit weights; set it to lora, or "
            "ppo.roles to shared"
        )


def spread(model: PreTrainedModel, stage: ZeroStage, device: torch.device) -> None:
    """Leave this process its part of the model, in place; gradients become sums over processes.

    model: as `rlhf.models.from_main.from_main` gives it. One layer of it is whole on `device` at a
    time, and at last what belongs to none.
    stage: 3 gathers a layer's weights for the forward and again for the backward pass, 2 keeps them
    from the one to the other.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in (*layers(model), model):
        fill(part, device)
        fully_shard(
            part,
            mesh=mesh,
            reshard_after_forward=stage == 3,
            mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32),
        )
    for part in shards(model):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo has no other
    if hasattr(model, "token_scores"):
        register_fsdp_forward_method(model, "token_scores")


def layers(model: PreTrainedModel) -> list[nn.Module]:
    """The parts that are gathered one at a time."""
    blocks = model._no_split_modules or ()
    return [part for part in model.modules() if type(part).__name__ in blocks]


def apart(model: nn.Module) -> nn.Module:
    """The same model, whose parameters are this process's parts again where they were whole."""
    for part in shards(model):
        part.reshard()
    return model


@contextmanager
def whole_weights(model: nn.Module, stage: ZeroStage | None) -> Iterator[None]:
    """Gather all weights once: in here every process computes as often as it likes, alone."""
    parts = shards(model)
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(stage == 3, recurse=False)
            part.reshard()


def collected(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is spread, in the main process's memory; elsewhere an empty one.

    Every process calls it. A tensor that is not spread is returned as it is.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if dist.get_rank() == 0 else whole.new_empty(0, device="cpu")


def own_part(tensor: Tensor) -> Tensor:
    """What this process keeps of a tensor: all of it, if it is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same on every process, spread as the parameter is, on its device.

    One that is spread already, or of another shape, such as a count of steps, stays as it is.
    """
    if not isinstance(parameter, DTensor) or isinstance(tensor, DTensor):
        return tensor
    if tensor.shape != parameter.shape:
        return tensor
    on_device = tensor.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(on_device, mesh, placements, src_data_rank=None)


def shards(model: nn.Module) -> list[Any]:
    """The parts of a model whose weights are spread, each gathered by itself."""
    return [part for part in model.modules() if isinstance(part, FSDPModule)]
