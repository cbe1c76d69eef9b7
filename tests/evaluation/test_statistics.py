from __future__ import annotations

from math import sqrt
from random import Random

import pytest

from rlhf.evaluation.statistics import (
    Trend,
    accuracy,
    clustered_interval,
    cochran_armitage,
    correlation_through_origin,
    mean_interval,
    net_win_interval,
    surest_drop,
)


def test_accuracy_counts_a_tie_as_half() -> None:
    result = accuracy([1, 1, 0.5, 0])
    assert result["pairs"] == 4
    assert result["accuracy"] == pytest.approx(2.5 / 4)
    assert result["ci_low"] < 0.625 < result["ci_high"]


def test_accuracy_of_nothing_is_none() -> None:
    assert accuracy([]) == {"pairs": 0, "accuracy": None, "ci_low": None, "ci_high": None}


def trend(right: list[int], totals: list[int], doses: list[float], clusters: int = 0) -> Trend:
    """Of groups of pairs with one dose each; clusters: prompts that the pairs go to in turn."""
    credits = [float(i < r) for r, n in zip(right, totals, strict=True) for i in range(n)]
    dosed = [dose for dose, n in zip(doses, totals, strict=True) for _ in range(n)]
    names = [f"p{i % clusters if clusters else i}" for i in range(len(credits))]
    found = cochran_armitage(credits, dosed, names)
    assert found is not None
    return found


def test_cochran_armitage_by_hand() -> None:
    # p = 1/2; T = 1(2-5) + 2(5-5) + 3(8-5) = 6; Var = 1/4 (10 x 14 - 60^2 / 30) = 5
    found = trend([2, 5, 8], [10, 10, 10], [1, 2, 3])
    assert found.z == pytest.approx(6 / sqrt(5))
    assert found.p_value == pytest.approx(0.003645179, abs=1e-8)  # upper tail of the normal


def test_the_clustered_trend_by_hand() -> None:
    # u = (dose - 1.5)(credit - 0.5) is 0.25 for each: 0.5 for a prompt, 1 for both.
    credits, doses = [0.0, 1.0, 0.0, 1.0], [1.0, 2.0, 1.0, 2.0]
    found = cochran_armitage(credits, doses, ["p", "p", "q", "q"])
    assert found is not None and found.z == pytest.approx(2.0)  # r = 1, N = 4
    assert found.clustered_z == pytest.approx(1 / sqrt(0.5))
    assert found.clustered_p_value == pytest.approx(0.0786496, abs=1e-6)


def test_a_pair_counted_twice_makes_only_the_unclustered_trend_surer() -> None:
    once = trend([2, 5, 8], [10, 10, 10], [1, 2, 3])
    credits = [float(i < r) for r in (2, 5, 8) for i in range(10)] * 2
    names = [f"p{i}" for i in range(30)] * 2
    doses = ([1.0] * 10 + [2.0] * 10 + [3.0] * 10) * 2
    twice = cochran_armitage(credits, doses, names)
    assert twice is not None
    assert twice.z == pytest.approx(once.z * sqrt(2))
    assert twice.clustered_z == pytest.approx(once.clustered_z)


def test_cochran_armitage_is_one_sided_and_ignores_the_doses_scale() -> None:
    falling = trend([8, 5, 2], [10, 10, 10], [1, 2, 3])
    assert falling.p_value == pytest.approx(1 - 0.003645179, abs=1e-8)
    rising = trend([2, 5, 8], [10, 10, 10], [1, 2, 3])
    scaled = trend([2, 5, 8], [10, 10, 10], [70, 90, 110])
    assert scaled.z == pytest.approx(rising.z)
    assert scaled.clustered_z == pytest.approx(rising.clustered_z)


@pytest.mark.parametrize(
    ("credits", "doses"),
    [([1.0, 0.0], [3, 3]), ([1.0, 1.0], [1, 2]), ([0.0, 0.0], [1, 2]), ([], [])],
)
def test_no_trend_where_nothing_varies(credits: list[float], doses: list[float]) -> None:
    assert cochran_armitage(credits, doses, [f"p{i}" for i in doses]) is None


def test_one_cluster_alone_has_no_clustered_trend() -> None:
    found = trend([2, 5, 8], [10, 10, 10], [1, 2, 3], clusters=1)
    assert found.clustered_z is None and found.clustered_p_value is None


def test_the_surest_drop_by_hand() -> None:
    # 3 of 4, then 1 of 4, then 4 of 4: residuals of 1/2 about the common mean, a quarter of which
    # counts, so 8/7 x 8/64 = 1/7; half of what one pair changes is 1/4; two steps.
    credits = [1.0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1]
    doses = [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    found = surest_drop(credits, doses, [f"p{i}" for i in range(12)])
    assert found is not None and (found.before, found.after, found.size) == (1, 2, 0.5)
    assert found.p_value == pytest.approx(2 * 0.2541658, abs=1e-6)  # z = 0.25 / sqrt(1 / 7)
    # Two pairs a prompt: 1/4, 0, 0 and 1/4, so z = 0.25 / sqrt(4/3 x 2/16).
    found = surest_drop(credits, doses, [f"p{i // 2}" for i in range(12)])
    assert found is not None and found.p_value == pytest.approx(2 * 0.2701457, abs=1e-6)


def test_no_drop_where_nothing_falls_and_no_sure_one_of_few_pairs() -> None:
    names = ["p", "q", "r", "s"]
    assert surest_drop([0.0, 1.0, 1.0, 1.0], [1.0, 2.0, 2.0, 3.0], names) is None
    # 2 of 2, then 0 of 2: exact 1/6; here z = (1 - 1/2) / sqrt(4/3 x 4/16).
    falling = [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 2.0, 2.0]
    found = surest_drop(*falling, names)
    assert found is not None and found.size == 1
    assert found.p_value == pytest.approx(0.1932381, abs=1e-6)
    # All of one prompt: nothing tells how far chance reaches.
    assert surest_drop(*falling, ["p"] * 4) is None


def test_one_wrong_pair_is_no_sure_drop() -> None:
    """40 of 50, then 0 of 1: exact 11/51. Its step stands behind one that many pairs make."""
    credits = [1.0] * 40 + [0.0] * 10 + [0.0]
    found = surest_drop(credits, [4.0] * 50 + [5.0], [f"p{i}" for i in range(51)])
    # The one has 40/51, the others' 40 (11/51)^2 + 10 (40/51)^2 go by 50^2: 51/50 x 0.6183529.
    assert found is not None and found.size == pytest.approx(0.8)
    assert found.p_value == pytest.approx(0.3574971, abs=1e-6)  # z = 0.29 / sqrt(0.6307200)
    doses = [3.0] * 60 + [4.0] * 50 + [5.0]
    credits = [1.0] * 55 + [0.0] * 5 + [1.0] * 20 + [0.0] * 30 + [0.0]
    found = surest_drop(credits, doses, [f"p{i}" for i in range(111)])
    assert found is not None and (found.before, found.after) == (3, 4)
    assert found.p_value < 1e-6


def test_a_few_pairs_that_are_all_right_make_no_sure_drop() -> None:
    # 5 of 5, then 45 of 50: residuals of 1/11 and 10/11 would say z = 0.1 / 0.058. Dealt at random
    # the variance is (1/5 + 1/50) 50/11 / 54; half of what one pair changes, 0.11, outweighs it.
    credits = [1.0] * 5 + [1.0] * 45 + [0.0] * 5
    found = surest_drop(credits, [1.0] * 5 + [2.0] * 50, [f"p{i}" for i in range(55)])
    assert found is not None and found.p_value == pytest.approx(0.5292898, abs=1e-6)


def test_a_drop_of_many_pairs_is_as_sure_as_by_the_exact_test() -> None:
    # 160 of 200, then 130 of 200. Every pair five times: surer only by what one pair changes.
    credits = [1.0] * 160 + [0.0] * 40 + [1.0] * 130 + [0.0] * 70
    doses, names = [1.0] * 200 + [2.0] * 200, [f"p{i}" for i in range(400)]
    found = surest_drop(credits, doses, names)
    assert found is not None and found.p_value == pytest.approx(0.0005557, rel=0.07)  # Fisher's
    five = surest_drop(credits * 5, doses * 5, names * 5)
    assert five is not None and found.p_value > five.p_value > found.p_value / 2


def test_correlation_does_not_depend_on_the_order_within_a_pair() -> None:
    x, y = [1.0, 2.0, -1.0], [2.0, 3.0, 0.5]
    expected = (2 + 6 - 0.5) / sqrt(6 * 13.25)
    assert correlation_through_origin(x, y) == pytest.approx(expected)
    assert correlation_through_origin([-1.0, 2, -1], [-2.0, 3, 0.5]) == pytest.approx(expected)
    assert correlation_through_origin([0.0, 0.0], [1.0, 2.0]) is None


def test_net_win_interval_by_hand() -> None:
    # Half a count in each of four cells: d = 20/102, variance = (61/102 - d^2) / 102
    low, high = net_win_interval(win=40, tie=40, lose=20)
    difference = 20 / 102
    half = 1.959964 * sqrt((61 / 102 - difference**2) / 102)
    assert (low, high) == pytest.approx((difference - half, difference + half), abs=1e-6)


def test_net_win_interval_stays_honest_at_the_edge() -> None:
    low, high = net_win_interval(win=10, tie=0, lose=0)
    assert 0 < low < 1 and high == 1
    low, high = net_win_interval(win=0, tie=10, lose=0)
    assert low < 0 < high


def test_mean_interval_is_students():
    # Mean 3, standard deviation 1, three values: t(2) = 4.30265.
    mean, low, high = mean_interval([2.0, 3.0, 4.0])
    assert mean == 3
    assert (low, high) == pytest.approx((3 - 4.30265 / 3**0.5, 3 + 4.30265 / 3**0.5), abs=1e-4)


def test_clustered_interval_counts_what_goes_together_once():
    alone = clustered_interval([0.0, 1.0, 0.0, 1.0], ["a", "b", "c", "d"])
    assert alone[2] - alone[0] == pytest.approx(3.18244631 * (4 / 3 * 4 * 0.25 / 16) ** 0.5)
    together = clustered_interval([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"])
    assert together[2] - together[0] == pytest.approx(12.7062047 * (2 * 2 * 1.0 / 16) ** 0.5)
    assert clustered_interval([1.0, 0.0], ["a", "a"]) == (0.5, None, None)


def test_few_clusters_are_covered_as_often_as_said():
    """Means of clusters, normal: 95 % whatever their number; the normal quantile had 69 % of 2."""
    random = Random(0)
    for clusters in (2, 3, 5):
        names = [str(n // 3) for n in range(3 * clusters)]
        covered = 0
        for _ in range(600):
            shared = [random.gauss(0, 0.3) for _ in range(clusters)]
            values = [shared[n // 3] + random.gauss(0, 0.2) for n in range(3 * clusters)]
            _, low, high = clustered_interval(values, names)
            covered += low <= 0 <= high
        assert covered / 600 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("values", [[0.0, 1.0, 0.0, 1.0], [1 / 3] * 4, [0.0] * 4])
def test_clusters_that_do_not_differ_tell_nothing_of_the_spread(values: list[float]):
    assert clustered_interval(values, ["a", "a", "b", "b"])[1:] == (None, None)
