from __future__ import annotations

import random
from math import exp, log

import pytest

from rlhf.evaluation.calibration import (
    by_fixed_bins,
    by_quantile,
    expected_accuracy,
    expected_calibration_error,
    fit_temperature,
    margin_histogram,
    temperature,
)
from rlhf.evaluation.margin_report import build
from tests.evaluation.rows import make_row, make_rows


def test_margin_bins_hold_every_pair_once_in_order() -> None:
    rng = random.Random(0)
    table = build(make_rows([rng.gauss(0.5, 1) for _ in range(1000)]))["by_margin"]
    assert len(table) == 10 and [row["pairs"] for row in table] == [100] * 10
    assert all(left["high"] <= right["low"] for left, right in zip(table, table[1:], strict=False))
    assert all(row["low"] <= row["mean_margin"] <= row["high"] for row in table)


def test_equal_margins_share_a_bin() -> None:
    table = build(make_rows([1.0] * 300 + [-1.0] * 100 + [2.0] * 4))["by_margin"]
    assert [row["pairs"] for row in table] == [400, 4]
    assert table[0]["accuracy"] == pytest.approx(0.75)
    assert table[0]["expected"] == pytest.approx(1 / (1 + exp(-1)))


def test_expected_calibration_error_by_hand() -> None:
    table = [
        {"pairs": 30, "accuracy": 0.6, "expected": 0.7},
        {"pairs": 10, "accuracy": 1.0, "expected": 0.8},
    ]
    assert expected_calibration_error(table) == pytest.approx((30 * 0.1 + 10 * 0.2) / 40)


def test_calibrated_margins_have_a_small_error_and_a_rising_trend() -> None:
    rng = random.Random(1)
    margins = []
    for _ in range(4000):
        size = abs(rng.gauss(0, 2))
        margins.append(size if rng.random() < expected_accuracy(size) else -size)
    report = build(make_rows(margins))
    assert report["ece"] < 0.03
    assert report["trend"]["margin"]["p_value"] < 1e-6
    assert report["trend"]["grade"] is None  # one grade only: nothing varies


def test_histogram_counts_every_pair() -> None:
    table = margin_histogram(make_rows([-1.0, 0.0, 0.5, 1.0]), bins=4)
    assert [row["pairs"] for row in table] == [1, 0, 1, 2]
    assert sum(row["pairs"] for row in margin_histogram(make_rows([2.0] * 3))) == 3


def test_fixed_bins_hold_their_lower_edge_and_leave_out_empty_ones() -> None:
    table = by_fixed_bins(make_rows([0.0, -0.2, 0.25, 0.5, -0.75, 4.0, 9.0]))
    assert [(row["low"], row["high"], row["pairs"]) for row in table] == [
        (0.0, 0.25, 2),
        (0.25, 0.5, 1),
        (0.5, 1.0, 2),
        (4.0, None, 2),
    ]
    assert [row["accuracy"] for row in table] == [0.25, 1.0, 0.5, 1.0]
    assert table[0]["expected"] == pytest.approx((0.5 + 1 / (1 + exp(-0.2))) / 2)


def test_temperature_by_hand() -> None:
    """Margins of one size m, a share p of them right: sigmoid(m / T) = p, T = m / logit(p)."""
    margins = [2.0] * 3 + [-2.0]
    assert fit_temperature(margins) == pytest.approx(2.0 / log(3))
    assert fit_temperature([0.02] * 3 + [-0.02]) == pytest.approx(0.02 / log(3))
    assert fit_temperature([*margins, 0.0]) == pytest.approx(2.0 / log(3))


@pytest.mark.parametrize("margins", [[], [1.0, 2.0], [1.0, -1.0], [-2.0, 1.0], [0.0]])
def test_no_finite_temperature_fits(margins: list[float]) -> None:
    assert fit_temperature(margins) is None


def test_temperature_is_fitted_on_other_prompts_than_it_is_tested_on() -> None:
    rng = random.Random(3)
    rows = []
    for index in range(4000):
        size = abs(rng.gauss(0, 2))
        margin = size if rng.random() < expected_accuracy(size) else -size
        rows.append(make_row(index, 3 * margin, prompt_id=f"p{index // 4}"))
    fitted = temperature(rows)
    assert fitted is not None
    assert fitted["fitted_pairs"] + fitted["pairs"] == 4000
    assert fitted["fitted_pairs"] % 4 == 0, "a prompt's pairs stay together"
    assert fitted["value"] == pytest.approx(3, abs=0.3)
    assert fitted["ece_after"] < 0.04 < 0.08 < fitted["ece_before"]
    assert [row["accuracy"] for row in fitted["before"]] == [r["accuracy"] for r in fitted["after"]]
    assert fitted["after"] != by_quantile(rows, fitted["value"]), "not of all pairs"


def test_the_fitted_half_alone_sets_the_temperature() -> None:
    """By their hashes p0 is in the one half and p2 in the other, whose margins are larger."""
    sizes = [("p0", 2.0), ("p2", 8.0)]
    margins = [(name, m) for name, size in sizes for m in [*[size] * 3, -size]]
    rows = [make_row(i, margin, prompt_id=name) for i, (name, margin) in enumerate(margins)]
    fitted = temperature(rows)
    assert fitted is not None
    assert fitted["value"] == pytest.approx(2 / log(3))


def test_one_prompt_has_no_second_half() -> None:
    assert temperature([make_row(i, m, prompt_id="p") for i, m in enumerate((1.0, 2, -1))]) is None
