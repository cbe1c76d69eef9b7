from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rlhf.config.schema import RMSection
from rlhf.training.objective import RankingObjective

SCORES = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.5, 0.0]])
RANKS = torch.tensor([[1, 2, 3], [2, 1, 0]])
GRADES = torch.tensor([[[0, 1, 2], [0, 0, 1], [0, 0, 0]], [[0, 0, 0], [3, 0, 0], [0, 0, 0]]])


def objective(**settings: Any) -> RankingObjective:
    return RankingObjective(RMSection(**settings))


def pair(difference: float) -> float:
    return math.log1p(math.exp(-difference))


def value(**settings: Any) -> float:
    return float(objective(**settings).loss(SCORES, RANKS, GRADES))


def test_each_loss_by_hand() -> None:
    first = [pair(2.0), pair(1.0), pair(-1.0)]
    choice = math.log1p(math.exp(-2.0) + math.exp(-1.0))
    assert value() == pytest.approx((sum(first) / 3 + pair(0.5)) / 2)
    assert value(loss="pairwise") == pytest.approx((sum(first) + pair(0.5)) / 4)
    expected = ((choice + pair(-1.0)) / 2 + pair(0.5)) / 2
    assert value(loss="plackett-luce") == pytest.approx(expected)


def test_margins_follow_the_grade() -> None:
    margins = (0.1, 0.2, 0.3, 0.4, 0.5)
    each = [pair(1.9), pair(0.8), pair(-1.1), pair(0.2)]
    assert value(grade_margins=margins) == pytest.approx((sum(each[:3]) / 3 + each[3]) / 2)
    assert value(grade_margins=margins, loss="pairwise") == pytest.approx(sum(each) / 4)


def test_centering_is_averaged_as_the_loss_is() -> None:
    first, second = (16.0 + 25.0 + 9.0), 0.25
    assert value(centering=0.1) - value() == pytest.approx(0.1 * (first / 3 + second) / 2)
    added = value(centering=0.1, loss="pairwise") - value(loss="pairwise")
    assert added == pytest.approx(0.1 * (first + second) / 4)


def test_smoothing_is_passed_on() -> None:
    # -log sigmoid(-d) = d - log sigmoid(d), so smoothing adds its share of the mean difference.
    assert value(label_smoothing=0.1) - value() == pytest.approx(0.1 * (2.0 / 3 + 0.5) / 2)


@pytest.mark.parametrize("loss", ["kway", "pairwise", "plackett-luce"])
def test_microbatches_weighed_by_their_items_give_the_whole_batch(loss: str) -> None:
    chosen = objective(loss=loss, centering=0.01)
    parts = [
        chosen.items(RANKS[[row]]) * chosen.loss(SCORES[[row]], RANKS[[row]], GRADES[[row]])
        for row in range(2)
    ]
    whole = chosen.loss(SCORES, RANKS, GRADES)
    torch.testing.assert_close(sum(parts) / chosen.items(RANKS), whole)


def test_smoothing_needs_pairs() -> None:
    with pytest.raises(ValueError, match="choose loss: kway or pairwise"):
        RMSection(loss="plackett-luce", label_smoothing=0.1)
