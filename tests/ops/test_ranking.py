from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf.ops.losses import ranking_loss
from rlhf.ops.ranking import (
    centering_penalty,
    comparable,
    mean_over_prompts,
    plackett_luce_loss,
    separate_pairs,
)

SCORES = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.5, math.nan]])
RANKS = torch.tensor([[1, 2, 3], [2, 1, 0]])
Loss = Callable[..., torch.Tensor]


def pair(difference: float) -> float:
    return math.log1p(math.exp(-difference))


def pairwise_loss(scores: torch.Tensor, ranks: torch.Tensor, margins: Any = None) -> torch.Tensor:
    return ranking_loss(*separate_pairs(scores, ranks, margins))


LOSSES = [ranking_loss, pairwise_loss, plackett_luce_loss, centering_penalty]


def test_comparable_leaves_out_ties_and_padding() -> None:
    pairs = comparable(torch.tensor([[2, 1, 2, 0]]))
    assert pairs.nonzero().tolist() == [[0, 1, 0], [0, 1, 2]]


def test_mean_over_prompts_passes_over_those_without_an_entry() -> None:
    x = torch.tensor([[1.0, 2.0], [5.0, 7.0], [9.0, 9.0]])
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    assert mean_over_prompts(x, mask).item() == pytest.approx((1.5 + 7.0) / 2)


def test_pairwise_weighs_every_pair_alike() -> None:
    each = [pair(2.0), pair(1.0), pair(-1.0), pair(0.5)]
    assert pairwise_loss(SCORES, RANKS).item() == pytest.approx(sum(each) / 4)


def test_separate_pairs_by_hand() -> None:
    margins = torch.arange(18.0).view(2, 3, 3)
    scores, ranks, asked = separate_pairs(SCORES, RANKS, margins)
    assert scores.tolist() == [[3.0, 1.0], [3.0, 2.0], [1.0, 2.0], [0.5, 0.0]]
    assert ranks.tolist() == [[1, 2]] * 4
    assert asked is not None
    assert asked[:, 0, 1].tolist() == [1.0, 2.0, 5.0, 12.0]


def test_plackett_luce_by_hand() -> None:
    # First of three: e^3 / (e^3 + e^1 + e^2); then e^1 / (e^1 + e^2); the last is no choice.
    first = math.log1p(math.exp(-2.0) + math.exp(-1.0))
    expected = ((first + pair(-1.0)) / 2 + pair(0.5)) / 2
    assert plackett_luce_loss(SCORES, RANKS).item() == pytest.approx(expected)


def test_plackett_luce_ties_stand_outside_each_others_sums() -> None:
    # 1, 1, 2: each of the tied two is chosen over the third alone.
    loss = plackett_luce_loss(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[1, 1, 2]]))
    assert loss.item() == pytest.approx((pair(1.0) + pair(-1.0)) / 2)


def test_two_responses_make_all_losses_the_same() -> None:
    scores, ranks = torch.tensor([[0.3, 1.0]]), torch.tensor([[1, 2]])
    margins = torch.tensor([[[0.0, 0.4], [0.0, 0.0]]])
    for loss in (ranking_loss, pairwise_loss, plackett_luce_loss):
        assert loss(scores, ranks, margins).item() == pytest.approx(pair(-0.7 - 0.4))


def test_centering_penalty_by_hand() -> None:
    first = (16.0 + 25.0 + 9.0) / 3
    assert centering_penalty(SCORES, RANKS).item() == pytest.approx((first + 0.25) / 2)


def test_label_smoothing_by_hand_and_least_at_its_odds() -> None:
    ranks = torch.tensor([[1, 2]])
    loss = ranking_loss(torch.tensor([[2.0, 0.5]]), ranks, label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.9 * pair(1.5) + 0.1 * pair(-1.5))

    best = torch.tensor([[math.log(0.9 / 0.1), 0.0]], requires_grad=True)
    ranking_loss(best, ranks, label_smoothing=0.1).backward()
    assert best.grad is not None
    torch.testing.assert_close(best.grad, torch.zeros(1, 2), atol=1e-7, rtol=0)


def test_label_smoothing_counts_the_difference_less_the_margin() -> None:
    margins = torch.tensor([[[0.0, 0.5], [0.0, 0.0]]])
    loss = ranking_loss(torch.tensor([[2.0, 0.5]]), torch.tensor([[1, 2]]), margins, 0.2)
    assert loss.item() == pytest.approx(0.8 * pair(1.0) + 0.2 * pair(-1.0))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_finite_differences(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The losses compute in float32; for the comparison they are let into float64.
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    ranks = torch.tensor([[1, 2, 3, 4], [2, 1, 2, 0], [1, 1, 1, 0]])
    assert torch.autograd.gradcheck(lambda x: loss(x, ranks), scores)


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_and_the_order_of_responses_are_of_no_matter(loss: Loss) -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    junk = torch.cat([scores[:, [2, 0, 1]], torch.tensor([[math.nan, math.inf]])], dim=1)
    value = loss(junk, torch.tensor([[3, 1, 2, 0, 0]]))
    torch.testing.assert_close(value, loss(scores, torch.tensor([[1, 2, 3]])))
    value.backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_without_any_pair_it_is_zero_with_a_gradient(loss: Loss) -> None:
    scores = torch.tensor([[3.0, 1.0]], requires_grad=True)
    value = loss(scores, torch.tensor([[1, 1]]))
    value.backward()
    assert value.item() == 0.0
    assert scores.grad is not None and scores.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("loss", [ranking_loss, pairwise_loss, plackett_luce_loss])
def test_large_differences_stay_finite(loss: Loss) -> None:
    scores = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    value = loss(scores, torch.tensor([[1, 2]]))
    value.backward()
    assert value.item() == pytest.approx(1000.0)
    assert scores.grad is not None and scores.grad.tolist() == [[-1.0, 1.0]]
