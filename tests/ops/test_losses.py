from __future__ import annotations

import math

import pytest
import torch

from rlhf.ops.losses import (
    clip_fraction,
    policy_loss,
    ranking_loss,
    ratio_deviation,
    value_loss,
)

MASK = torch.tensor([[True, True, True, True, False]])
RATIOS = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.0]])
OLD = torch.full((1, 5), -1.0)
LOGPROBS = OLD + RATIOS.log()
ADVANTAGES = torch.tensor([[1.0, 1.0, -1.0, -1.0, math.nan]])


def test_policy_loss_by_hand() -> None:
    # clip 0.2: gains are held at 1.2, losses are not; -1.2, -0.5, 1.5, 0.8
    loss = policy_loss(LOGPROBS, OLD, ADVANTAGES, MASK, clip=0.2)
    assert loss.item() == pytest.approx((-1.2 - 0.5 + 1.5 + 0.8) / 4)


def test_policy_gradient_stops_only_where_the_clip_binds() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    policy_loss(logprobs, OLD, ADVANTAGES, MASK, clip=0.2).backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0, -0.5 / 4, 1.5 / 4, 0, 0]]))


def test_policy_loss_survives_junk_in_padding() -> None:
    logprobs = torch.cat([LOGPROBS[:, :4], torch.tensor([[1e30]])], 1).requires_grad_()
    policy_loss(logprobs, OLD, ADVANTAGES, MASK, clip=0.2).backward()
    assert logprobs.grad is not None and logprobs.grad.isfinite().all()


def test_value_loss_by_hand() -> None:
    values, old = torch.tensor([[1.0, 4.0, math.nan]]), torch.tensor([[1.0, 1.0, 0.0]])
    returns = torch.tensor([[2.0, 3.0, 0.0]])
    mask = torch.tensor([[True, True, False]])
    # errors 1 and 1; clipped at 0.5 the second value is 1.5 and its error 2.25
    assert value_loss(values, old, returns, mask, None).item() == pytest.approx(0.5)
    assert value_loss(values, old, returns, mask, 0.5).item() == pytest.approx(0.5 * 3.25 / 2)


def test_value_loss_survives_junk_in_padding() -> None:
    values = torch.tensor([[1.0, math.nan]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    value_loss(values, torch.zeros(1, 2), torch.zeros(1, 2), mask, 10.0).backward()
    assert values.grad is not None and values.grad.tolist() == [[1.0, 0.0]]


def test_extra_padding_changes_no_loss() -> None:
    more = torch.cat([MASK, torch.zeros(1, 3).bool()], 1)
    wide = [torch.cat([x, torch.full((1, 3), 9.0)], 1) for x in (LOGPROBS, OLD, ADVANTAGES)]
    assert torch.equal(
        policy_loss(*wide, more, 0.2), policy_loss(LOGPROBS, OLD, ADVANTAGES, MASK, 0.2)
    )
    assert torch.equal(
        value_loss(*wide, more, 0.2), value_loss(LOGPROBS, OLD, ADVANTAGES, MASK, 0.2)
    )


def test_statistics_by_hand() -> None:
    assert clip_fraction(LOGPROBS, OLD, MASK, 0.2).item() == 1.0
    assert clip_fraction(LOGPROBS, OLD, MASK, 0.6).item() == 0.0
    assert ratio_deviation(LOGPROBS, OLD, MASK).item() == pytest.approx(0.5)
    assert ratio_deviation(OLD, OLD, MASK).item() == 0.0
    one = OLD + torch.tensor([[1.5, 1.0, 1.0, 1.0, 9.0]]).log()
    assert ratio_deviation(one, OLD, MASK).item() == pytest.approx(0.5 / 4)


def _pair(difference: float) -> float:
    return math.log1p(math.exp(-difference))


def test_ranking_loss_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.5, math.nan]])
    ranks = torch.tensor([[1, 2, 3], [2, 1, 0]])
    first = (_pair(2.0) + _pair(1.0) + _pair(-1.0)) / 3
    assert ranking_loss(scores, ranks).item() == pytest.approx((first + _pair(0.5)) / 2)


def test_ranking_loss_ties_make_no_pair() -> None:
    scores, ranks = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[1, 2, 1]])
    assert ranking_loss(scores, ranks).item() == pytest.approx((_pair(2.0) + _pair(1.0)) / 2)


def test_ranking_loss_margins_are_of_the_winner_over_the_loser() -> None:
    margins = torch.zeros(1, 2, 2)
    margins[0, 1, 0] = 0.75
    loss = ranking_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[2, 1]]), margins)
    assert loss.item() == pytest.approx(_pair(0.25))


def test_ranking_loss_passes_over_prompts_without_pairs() -> None:
    scores = torch.tensor([[3.0, 1.0], [5.0, 9.0], [4.0, 2.0]])
    ranks = torch.tensor([[1, 2], [1, 1], [1, 0]])
    assert ranking_loss(scores, ranks).item() == pytest.approx(_pair(2.0))


def test_ranking_loss_without_any_pair_is_zero_with_a_gradient() -> None:
    scores = torch.tensor([[3.0, 1.0]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[1, 1]]))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None and scores.grad.tolist() == [[0.0, 0.0]]


def test_ranking_loss_ignores_padding_in_value_and_gradient() -> None:
    scores = torch.tensor([[3.0, 1.0, math.nan, math.inf]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[1, 2, 0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(_pair(2.0))
    assert scores.grad is not None and scores.grad[0, 2:].tolist() == [0.0, 0.0]


def test_ranking_loss_is_stable_for_large_differences() -> None:
    scores = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[1, 2]]))
    loss.backward()
    assert loss.item() == pytest.approx(1000.0)
    assert scores.grad is not None and scores.grad.tolist() == [[-1.0, 1.0]]


def test_ranking_loss_in_half_precision_is_computed_in_float32() -> None:
    loss = ranking_loss(torch.tensor([[2.0, 1.0]]).bfloat16(), torch.tensor([[1, 2]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(_pair(1.0))
