from __future__ import annotations

from itertools import combinations
from math import log
from statistics import fmean

import pytest

from rlhf.ops.best_of_n import best_of_n, best_of_n_kl


def test_best_of_two_of_three_by_hand():
    # The pairs of scores 1, 2, 3 have the best 2, 3, 3: values 10, 60, 60.
    assert best_of_n([2.0, 1.0, 3.0], [10.0, 90.0, 60.0], 2) == pytest.approx(130 / 3)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_it_is_the_mean_over_all_draws(n):
    scores, values = [0.3, -1.0, 2.5, 0.4, 1.1, -0.2], [5.0, 1.0, 0.0, 7.0, 2.0, 4.0]
    draws = [max(draw) for draw in combinations(zip(scores, values, strict=True), n)]
    assert best_of_n(scores, values, n) == pytest.approx(fmean(value for _, value in draws))


def test_one_is_the_mean_and_all_is_the_best():
    scores, values = [1.0, 3.0, 2.0, 0.0], [4.0, 8.0, 6.0, 2.0]
    assert best_of_n(scores, values, 1) == 5
    assert best_of_n(scores, values, 4) == 8
    assert best_of_n(scores, scores, 4) == 3


def test_ties_share_what_they_win():
    # The tied best wins against the other for sure, and each of the two half of their draw.
    assert best_of_n([1.0, 1.0, 0.0], [6.0, 0.0, 9.0], 2) == 3
    assert best_of_n([0.0] * 4, [1.0, 2.0, 3.0, 6.0], 3) == 3


def test_kl():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(log(4) - 0.75)
