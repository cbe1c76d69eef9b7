from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from rlhf.config.schema import OptimiserSection
from rlhf.training.split_adamw import join, split_into, split_optimiser

pytest.importorskip("bitsandbytes")


def test_the_halves_are_the_weight_bit_by_bit() -> None:
    torch.manual_seed(0)
    # 1 + 2^-9 is no bfloat16: the upper half is the nearest one, 1, and the lower 2^-9 of it.
    weight = torch.tensor([1 + 2**-9, -(1 + 3 * 2**-9), 0.0, *torch.randn(997) * 10])
    upper = torch.empty_like(weight, dtype=torch.bfloat16)
    lower = torch.empty_like(weight, dtype=torch.int16)
    split_into(weight, upper, lower)
    assert upper[0] == 1 and lower[0] == 2**14
    assert torch.equal(join(upper, lower).view(torch.int32), weight.view(torch.int32))
    assert ((upper.float() - weight).abs() <= weight.abs() * 2**-8).all()


def trained(parameter: nn.Parameter, kind: type, arguments: Any, steps: int) -> Any:
    optimiser = kind([parameter], **arguments)
    for step in range(steps):
        torch.manual_seed(step)
        # In bfloat16, as the model's gradients are, and the same for both.
        gradient = (torch.randn(64, 128) + 0.5).bfloat16()
        parameter.grad = gradient.to(parameter.dtype)
        optimiser.step()
    return optimiser


def test_a_step_leaves_what_hangs_on_a_weight_s_gradient() -> None:
    """There, processes sum it."""
    kind, arguments = split_optimiser(OptimiserSection(kind="adamw-8bit"))
    weight = nn.Parameter(torch.ones(64, 128, dtype=torch.bfloat16))
    optimiser, heard = kind([weight], **arguments), []
    hung = weight.expand_as(weight).grad_fn.next_functions[0][0]
    hung.register_hook(lambda *gradients: heard.append(len(heard)))
    for _ in range(3):
        weight.float().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert heard == [0, 1, 2]


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_are_those_of_float32_weights(compiled: bool, monkeypatch) -> None:
    from bitsandbytes.optim import AdamW8bit

    if compiled:  # traced and put in functional form, as for a GPU, but not made into C++
        traced = partial(torch.compile, backend="aot_eager")
        monkeypatch.setattr(torch, "compile", traced)
    section = OptimiserSection(learning_rate=1e-5, weight_decay=0.1)
    kind, arguments = split_optimiser(section, compiled=compiled)
    torch.manual_seed(0)
    start = (1 + torch.rand(64, 128)).bfloat16()
    whole = nn.Parameter(start.float())
    half, plain = (nn.Parameter(start.clone()) for _ in range(2))
    trained(whole, AdamW8bit, arguments, 20)
    split = trained(half, kind, arguments, 20)
    assert torch.equal(join(half.data, split.state[half]["lower"]), whole.data)
    # What this is for: between 1 and 2 a bfloat16 weight alone swallows every update.
    trained(plain, AdamW8bit, arguments, 20)
    assert torch.equal(plain.data, start)
    assert (whole.data - start).abs().mean() > 1e-5


def test_the_lower_halves_are_in_a_checkpoint() -> None:
    kind, arguments = split_optimiser(OptimiserSection(learning_rate=1e-4))
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(64, 128).bfloat16())
    first = trained(parameter, kind, arguments, 3)
    resumed = kind([parameter], **arguments)
    resumed.load_state_dict(first.state_dict())
    for name in ("lower", "state1", "absmax2"):
        kept = resumed.state[parameter][name]
        assert torch.equal(kept, first.state[parameter][name])
        assert kept.dtype == first.state[parameter][name].dtype
