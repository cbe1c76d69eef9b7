from __future__ import annotations

from math import sqrt

import pytest

from rlhf.evaluation.rankings import kendall
from tests.evaluation.rows import make_ranking_rows


def tau(ranks: list[int], scores: list[float]) -> float:
    return float(kendall(make_ranking_rows("a", ranks, scores))["tau"])


def test_tau_by_hand() -> None:
    assert tau([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0]) == pytest.approx(1)
    assert tau([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(-1)
    assert tau([1, 2, 3, 4], [3.0, 4.0, 2.0, 1.0]) == pytest.approx((5 - 1) / 6)


def test_ties_of_the_annotator_and_of_the_scores() -> None:
    """Of 6 pairs the annotator ties 1, the scores another: (5 - 0 - 1) / sqrt(5 * 5)."""
    assert tau([1, 1, 2, 3], [4.0, 3.0, 2.0, 2.0]) == pytest.approx(4 / 5)
    assert tau([1, 2, 3], [1.0, 1.0, 1.0]) == 0


def test_a_mean_over_rankings_not_over_pairs() -> None:
    rows = make_ranking_rows("a", [1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0])
    rows += make_ranking_rows("b", [1, 2], [0.0, 1.0]) + make_ranking_rows("c", [2, 1], [0.0, 1.0])
    report = kendall(rows)
    assert (report["rankings"], report["tau"]) == (3, pytest.approx(1 / 3))
    half = 4.30265273 * sqrt((2 * (2 / 3) ** 2 + (4 / 3) ** 2) / 2) / sqrt(3)
    assert report["ci_low"] == pytest.approx(max(-1, 1 / 3 - half)) and report["ci_high"] == 1
    assert [(row["responses"], row["rankings"], row["tau"]) for row in report["by_responses"]] == [
        (2, 2, 0.0),
        (4, 1, 1.0),
    ]
    assert report["by_responses"][1]["ci_low"] is None


def test_two_rankings_of_one_prompt_stay_two() -> None:
    rows = make_ranking_rows("a", [1, 2], [1.0, 0.0])
    again = [row.model_copy(update={"id": row.id.replace("a", "b", 1)}) for row in rows]
    assert kendall(rows + again)["rankings"] == 2


def test_rankings_of_one_prompt_are_taken_together() -> None:
    """Taus 1, 1 of one prompt, 1/3 four times of two others: mean 5/9, sums of residuals 8/9, -4/9
    and -4/9, variance 3/2 * 96/81 / 36 = (2/9)^2; it would be (1/9)^2 * 8/5 for six prompts."""
    right, one_wrong = [3.0, 2.0, 1.0], [3.0, 1.0, 2.0]
    rows = [
        row.model_copy(update={"prompt_id": name[0]})
        for name in ("p1", "p2", "q1", "q2", "r1", "r2")
        for row in make_ranking_rows(name, [1, 2, 3], right if name[0] == "p" else one_wrong)
    ]
    report = kendall(rows)
    assert (report["rankings"], report["tau"]) == (6, pytest.approx(5 / 9))
    assert report["ci_low"] == pytest.approx(5 / 9 - 4.30265273 * 2 / 9)
    assert report["ci_high"] == 1.0  # 5 / 9 + 4.3 * 2 / 9 is beyond
    alone = kendall([row for row in rows if row.prompt_id == "p"])
    assert alone["rankings"] == 2 and alone["ci_low"] is None
