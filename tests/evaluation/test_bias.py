from __future__ import annotations

import random

import pytest

from rlhf.evaluation.bias import (
    by_length,
    correlations,
    length_balanced_accuracy,
    refusal_shares,
    refusals,
)
from rlhf.evaluation.margin_report import build
from rlhf.evaluation.preference import PairRow
from tests.evaluation.rows import make_row


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
    assert abs(report["correlations"][0]["annotator"]) < 0.3


def test_position_correlation_by_hand() -> None:
    """Margins 3 and -4, the chosen answer 1 later and 2 earlier: (3 + 8) / sqrt(25 * 5)."""
    rows = [
        make_row(0, margin=3.0, chosen_index=2, rejected_index=1),
        make_row(1, margin=-4.0, chosen_index=0, rejected_index=2),
        make_row(2, margin=1.0),
    ]
    position = {row["feature"]: row for row in correlations(rows)}["position"]
    assert position["pairs"] == 2
    assert position["model"] == pytest.approx(11 / (25 * 5) ** 0.5)
    assert position["annotator"] == pytest.approx((1 - 2) / (2 * 5) ** 0.5)
    assert position["noise_free"] is None


def test_a_position_that_is_the_choice_itself_is_left_out() -> None:
    rows = [make_row(i, margin=m, chosen_index=0, rejected_index=1) for i, m in enumerate((1, -1))]
    assert [row["feature"] for row in correlations(rows)] == ["length"]
    said = "position: the chosen answer is always the earlier one, or always the later"
    assert said in build(rows)["not_given"]
    assert not any(sentence.startswith("position: pairs") for sentence in build(rows)["not_given"])
    rows.append(make_row(2, chosen_index=1, rejected_index=0))
    assert [row["feature"] for row in correlations(rows)] == ["length", "position"]
    assert said not in build(rows)["not_given"]


def test_lengths_within_ten_percent_match() -> None:
    lengths = [(110, 100), (100, 110), (111, 100), (300, 100), (100, 111), (0, 0), (0, 1)]
    rows = [
        make_row(i, margin=-1.0 if i == 3 else 1.0, chosen_length=a, rejected_length=b)
        for i, (a, b) in enumerate(lengths)
    ]
    table = by_length(rows)
    assert [(row["name"], row["pairs"], row["accuracy"]) for row in table] == [
        ("matched", 3, 1.0),
        ("chosen longer", 2, 0.5),
        ("chosen shorter", 2, 1.0),
    ]
    assert length_balanced_accuracy(table) == 0.75
    assert length_balanced_accuracy(table[:2]) is None


def test_a_model_that_scores_by_length_is_at_chance_when_lengths_are_balanced() -> None:
    rows = [
        make_row(i, margin=float(a - 50), chosen_length=a, rejected_length=50)
        for i, a in enumerate([100] * 9 + [20])
    ]
    assert build(rows)["accuracy"] == 0.9
    assert build(rows)["length_balanced_accuracy"] == 0.5


def refusing(chosen: bool, rejected: bool, margin: float, label: str | None) -> PairRow:
    return make_row(margin=margin, label=label, chosen_refusal=chosen, rejected_refusal=rejected)


def test_refusals_by_label() -> None:
    rows = [
        refusing(True, False, 1.0, "harmless"),  # both prefer the refusal
        refusing(False, True, -1.0, "harmless"),  # only the model does
        refusing(False, True, 2.0, "helpful"),  # neither
        refusing(True, False, 0.0, None),  # the annotator; a score tie counts half
        refusing(True, True, 1.0, "helpful"),  # both answers refuse: says nothing
        make_row(margin=1.0),  # not known
    ]
    found = {row["name"]: (row["pairs"], row["model"], row["annotator"]) for row in refusals(rows)}
    assert found == {
        "all": (4, 2.5 / 4, 0.5),
        "helpful": (1, 0.0, 0.0),
        "harmless": (2, 1.0, 0.5),
    }
    assert refusal_shares(rows) == {"chosen": 3 / 5, "rejected": 3 / 5}
    assert refusal_shares(rows[-1:]) is None
