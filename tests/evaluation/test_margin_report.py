from __future__ import annotations

import random
from math import exp
from typing import Any

import pytest

from rlhf.evaluation.margin_report import (
    BAICHUAN2_ACCURACY,
    build,
    expected_accuracy,
    expected_calibration_error,
    margin_histogram,
)
from rlhf.evaluation.preference import PairRow


def make_row(index: int = 0, margin: float = 1.0, **fields: Any) -> PairRow:
    values: dict[str, Any] = {
        "id": f"{index}",
        "prompt_id": f"p{index}",
        "chosen_id": "a",
        "rejected_id": "b",
        "chosen_score": margin,
        "rejected_score": 0.0,
        "margin": margin,
        "grade": 3,
        "chosen_size": "7B",
        "rejected_size": "7B",
        "chosen_stage": "sft",
        "rejected_stage": "sft",
        "chosen_length": 10,
        "rejected_length": 10,
    }
    return PairRow(**{**values, **fields})


def make_rows(margins: list[float], **fields: Any) -> list[PairRow]:
    return [make_row(index, margin, **fields) for index, margin in enumerate(margins)]


def test_accuracy_is_over_pairs_and_a_score_tie_is_half() -> None:
    report = build(make_rows([1.0, 2.0, -1.0, 0.0]))
    assert report["pairs"] == 4
    assert report["accuracy"] == pytest.approx(2.5 / 4)
    assert report["score_ties"] == 1


def test_by_grade_beside_the_baichuan2_report() -> None:
    rows = make_rows([1, -1, -1, 1], grade=1) + make_rows([1, 1], grade=5, derived=True)
    rows += make_rows([1], grade=None)
    low, high = build(rows)["by_grade"]
    assert (low["grade"], low["pairs"], low["accuracy"], low["derived"]) == (1, 4, 0.5, 0)
    assert (high["grade"], high["pairs"], high["accuracy"], high["derived"]) == (5, 2, 1.0, 2)
    assert low["baichuan2"] == pytest.approx(0.545) and high["baichuan2"] == pytest.approx(0.815)
    assert list(BAICHUAN2_ACCURACY.values()) == sorted(BAICHUAN2_ACCURACY.values())
    assert build(rows)["ungraded"] == 1


def test_noise_free_labels_ties_and_the_annotators_ceiling() -> None:
    rows = [
        make_row(0, margin=1.0, oracle_gap=2.0),  # model and annotator right
        make_row(1, margin=-1.0, oracle_gap=-2.0),  # the model is right, the annotator is not
        make_row(2, margin=1.0, oracle_gap=-0.5),  # both wrong
        make_row(3, margin=-1.0, oracle_gap=1.0),  # only the annotator is right
        make_row(4, margin=0.0, oracle_gap=1.0),  # a score tie
        make_row(5, margin=1.0, oracle_gap=0.1 + 0.2 - 0.3),  # equal quality
    ]
    report = build(rows)
    assert report["oracle_pairs"] == 5 and report["oracle_ties"] == 1
    assert report["oracle_accuracy"] == pytest.approx(2.5 / 5)
    assert report["annotator_ceiling"] == pytest.approx(3 / 5)


def test_without_an_oracle_there_are_no_oracle_numbers() -> None:
    report = build(make_rows([1.0, -1.0]))
    assert not any("oracle" in key or key == "annotator_ceiling" for key in report["by_grade"][0])
    assert set(report["trend"]) == {"grade", "margin"}
    assert report["length_correlation_oracle"] is None


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


def test_categories_at_three_levels() -> None:
    rows = make_rows([1, -1], category=("a", "b", "c")) + make_rows([1], category=("a",))
    rows += make_rows([1])
    table = build(rows)["by_category"]
    assert [(row["name"], row["pairs"]) for row in table["primary"]] == [("a", 3)]
    assert [(row["name"], row["pairs"]) for row in table["secondary"]] == [("a / b", 2)]
    assert table["tertiary"][0]["name"] == "a / b / c"


def test_sources_are_unordered_and_remember_who_was_chosen() -> None:
    rows = make_rows([1, 1, -1], chosen_stage="ppo") + make_rows([1], rejected_stage="ppo")
    rows += make_rows([1])
    mixed, same = build(rows)["by_source"]
    assert (mixed["first"], mixed["second"], mixed["pairs"]) == ("7B ppo", "7B sft", 4)
    assert mixed["accuracy"] == pytest.approx(3 / 4)
    assert mixed["first_chosen"] == pytest.approx(3 / 4)
    assert (same["first"], same["second"], same["first_chosen"]) == ("7B sft", "7B sft", None)


def test_length_correlation_sees_a_model_that_scores_by_length() -> None:
    rng = random.Random(2)
    rows = []
    for index in range(200):
        longer = rng.randint(-20, 20)
        rows.append(
            make_row(index, margin=0.1 * longer, chosen_length=30 + longer, rejected_length=30)
        )
    report = build(rows)
    assert report["length_correlation"] == pytest.approx(1.0)
    assert abs(report["length_correlation_annotator"]) < 0.3


def test_histogram_counts_every_pair() -> None:
    table = margin_histogram(make_rows([-1.0, 0.0, 0.5, 1.0]), bins=4)
    assert [row["pairs"] for row in table] == [1, 0, 1, 2]
    assert sum(row["pairs"] for row in margin_histogram(make_rows([2.0] * 3))) == 3


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no held-out pairs"):
        build([])
