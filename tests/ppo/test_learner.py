from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

from rlhf.config.schema import OptimiserSection
from rlhf.ppo.learner import Learner


def _parameter(*gradient: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    return parameter


def test_gradient_is_clipped_and_its_norm_returned() -> None:
    parameter = _parameter(3.0, 4.0)
    learner = Learner([parameter], OptimiserSection(grad_clip=0.5), steps=1)
    assert learner.clip_gradient() == pytest.approx(5.0)
    assert parameter.grad is not None
    torch.testing.assert_close(parameter.grad, torch.tensor([0.3, 0.4]))


def test_a_nan_gradient_has_a_nan_norm() -> None:
    learner = Learner([_parameter(math.nan)], OptimiserSection(), steps=1)
    assert math.isnan(learner.clip_gradient())


def test_steps_follow_the_schedule() -> None:
    # Adam's first steps under a constant gradient are as long as the learning rate.
    section = OptimiserSection(learning_rate=0.1, schedule="linear", beta1=0.9, beta2=0.95)
    parameter = _parameter(2.0)
    learner = Learner([parameter], section, steps=4)
    positions = [0.0]
    for _ in range(4):
        parameter.grad = torch.tensor([2.0])
        learner.step()
        positions.append(parameter.item())
        assert parameter.grad is None
    moves = [before - after for before, after in zip(positions, positions[1:], strict=False)]
    assert moves == pytest.approx([0.1, 0.075, 0.05, 0.025], rel=1e-4)


def test_weight_decay_by_hand() -> None:
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.zeros(1)
    section = OptimiserSection(learning_rate=0.1, schedule="constant", weight_decay=0.5)
    Learner([parameter], section, 1).step()
    assert parameter.item() == pytest.approx(1 - 0.1 * 0.5)


def test_betas_by_hand() -> None:
    section = OptimiserSection(learning_rate=1.0, schedule="constant", beta1=0.5, beta2=0.75)
    parameter = _parameter(1.0)
    learner = Learner([parameter], section, 2)
    learner.step()  # 0 -> -1
    parameter.grad = torch.zeros(1)
    learner.step()
    mean, square = 0.25 / (1 - 0.5**2), 0.1875 / (1 - 0.75**2)
    assert parameter.item() == pytest.approx(-1 - mean / square**0.5, rel=1e-4)


def test_a_resumed_learner_takes_the_same_steps() -> None:
    section = OptimiserSection(learning_rate=0.1, schedule="cosine", warmup_steps=2)
    ours, theirs = _parameter(1.0, -2.0), _parameter(1.0, -2.0)
    whole, first = Learner([ours], section, 6), Learner([theirs], section, 6)
    for step in range(6):
        if step == 3:
            state = first.state()
            first = Learner([theirs], section, 6)
            first.load_state(state)
        for parameter, learner in ((ours, whole), (theirs, first)):
            parameter.grad = torch.tensor([1.0 + step, -2.0])
            learner.step()
    assert torch.equal(ours, theirs)


def test_a_rollbacks_smaller_steps_resume() -> None:
    section = OptimiserSection(learning_rate=0.1, schedule="constant")
    parameter = _parameter(1.0)
    learner, resumed = (Learner([parameter], section, 4) for _ in range(2))
    learner.scale = 0.5
    resumed.load_state(learner.state())
    parameter.grad = torch.ones(1)
    resumed.step()
    assert parameter.item() == pytest.approx(-0.5 * 0.1, rel=1e-4)


def test_the_average_follows_by_hand_and_resumes() -> None:
    section = OptimiserSection(learning_rate=1.0, schedule="constant")
    parameter = _parameter(2.0)
    learner = Learner([parameter], section, 4, ema_decay=0.75)
    learner.step()  # 0 -> -1
    resumed = Learner([parameter], section, 4, ema_decay=0.75)
    resumed.load_state(learner.state())
    parameter.grad = torch.tensor([2.0])
    resumed.step()  # -1 -> -2
    assert resumed.average is not None
    # 0.75 * 0 - 0.25 * 1, then 0.75 * -0.25 - 0.25 * 2
    assert resumed.average[0].item() == pytest.approx(0.75 * -0.25 - 0.25 * 2, rel=1e-4)


def test_the_average_of_half_precision_weights_is_float32() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    (average,) = Learner([parameter], OptimiserSection(), 1, ema_decay=0.9).average or []
    assert average.dtype == torch.float32


def test_half_precision_weights_learn_in_float32_and_resume() -> None:
    """Steps of 1e-4 at 1 are a fortieth of what bfloat16 can tell apart there."""
    section = OptimiserSection(learning_rate=1e-4, schedule="constant", grad_clip=1e9)
    parameter = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    learner = Learner([parameter], section, 100)
    for step in range(80):
        if step == 40:
            state = learner.state()
            parameter = nn.Parameter(parameter.detach().clone())
            learner = Learner([parameter], section, 100)
            learner.load_state(state)
        for gradient in (256.0, 1.0):  # whose sum bfloat16 cannot hold
            parameter.grad = torch.full((1,), gradient, dtype=torch.bfloat16)
            learner.collect_gradient()
        assert learner.clip_gradient() == pytest.approx(257.0)
        learner.step()
    assert parameter.dtype == torch.bfloat16
    assert parameter.item() == 0.9921875  # of 1 - 80e-4, to the nearest


def test_8bit_without_bitsandbytes_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match=r"pip install 'baichuan-rlhf\[gpu\]'"):
        Learner([_parameter(1.0)], OptimiserSection(kind="adamw-8bit"), steps=1)
