from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf.evaluation.length_control import length_controlled


def simulated(theta: float, phi: float, count: int = 4000) -> tuple[list[float], list[float]]:
    """Verdicts of a judge with that liking for length, on a policy that mostly answers longer."""
    generator = np.random.default_rng(0)
    gaps = generator.normal(50.0, 60.0, count)
    odds = theta + phi * np.tanh(gaps / gaps.std())
    won = generator.random(count) < 1 / (1 + np.exp(-odds))
    return won.astype(float).tolist(), gaps.tolist()


@pytest.mark.parametrize(("theta", "equal"), [(0.0, 0.5), (1.0, 0.731059), (-1.0, 0.268941)])
def test_a_liking_for_length_is_taken_out(theta: float, equal: float) -> None:
    won, gaps = simulated(theta, phi=2.0)
    found = length_controlled(won, gaps)
    assert found.rate == pytest.approx(equal, abs=0.04)
    assert found.low < equal < found.high and found.slope == pytest.approx(2.0, abs=0.25)
    assert sum(won) / len(won) > equal + 0.08  # what a plain win rate would have said


def test_a_judge_that_does_not_care_changes_nothing() -> None:
    won, gaps = simulated(0.5, phi=0.0)
    assert length_controlled(won, gaps).rate == pytest.approx(sum(won) / len(won), abs=0.02)


def test_equal_lengths_give_the_plain_rate_with_its_interval() -> None:
    # The likelihood ratio of a proportion: 2 (30 ln(0.75 / p) + 10 ln(0.25 / (1 - p))) = 1.96^2.
    found = length_controlled([1.0] * 30 + [0.0] * 10, [0.0] * 40)
    assert found.rate == pytest.approx(0.75, abs=1e-3)
    for bound in (found.low, found.high):
        ratio = 2 * (30 * math.log(0.75 / bound) + 10 * math.log(0.25 / (1 - bound)))
        assert ratio == pytest.approx(1.959964**2, rel=0.02)


def test_ties_are_half_a_win_and_swapping_sides_mirrors() -> None:
    won, gaps = simulated(0.3, 1.0, count=200)
    won = [0.5 if i % 5 == 0 else value for i, value in enumerate(won)]
    one = length_controlled(won, gaps)
    other = length_controlled([1 - value for value in won], [-gap for gap in gaps])
    assert (other.rate, other.low) == pytest.approx((1 - one.rate, 1 - one.high), abs=1e-5)
    assert length_controlled([0.5] * 9, [0.0] * 9).rate == pytest.approx(0.5)


def test_always_winning_with_longer_answers_only_may_be_the_length_alone() -> None:
    found = length_controlled([1.0] * 20, [float(i) for i in range(20)])
    assert 0.0 < found.low < 0.5 < found.rate < found.high <= 1.0
    mixed = length_controlled([1.0] * 20, [float(i) for i in range(-10, 10)])
    assert 0.5 < mixed.low < mixed.rate < mixed.high <= 1.0
