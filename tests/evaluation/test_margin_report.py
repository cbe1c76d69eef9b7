from __future__ import annotations

import json
from itertools import combinations
from math import sqrt
from pathlib import Path

import pytest

from rlhf.data.formats import convert
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import RankingRecord
from rlhf.evaluation.margin_report import BAICHUAN2_ACCURACY, build, tables
from rlhf.evaluation.preference import pair_rows
from tests.evaluation.rows import make_row, make_rows


def test_accuracy_is_over_pairs_and_a_score_tie_is_half() -> None:
    report = build(make_rows([1.0, 2.0, -1.0, 0.0]))
    assert report["pairs"] == 4
    assert report["accuracy"] == pytest.approx(2.5 / 4)
    assert report["score_ties"] == 1


def test_pairs_of_one_prompt_taken_together_by_hand() -> None:
    # Credits 1, 1 of p and 0, 1 of q: residuals sum to 0.5 and -0.5, so the variance is 1 / 16;
    # of independent pairs it would be 3 / 16 / 4.
    rows = make_rows([1.0, 2.0], prompt_id="p") + make_rows([-1.0, 1.0], prompt_id="q")
    clustered = build(rows)["clustered"]
    assert clustered["ci_low"] == 0.0  # of two prompts: 0.75 -+ 12.7 / 4
    assert clustered["ci_high"] == 1.0
    assert clustered["widening"] == pytest.approx(sqrt(4 / 3))
    assert build(make_rows([1.0, 2.0]))["clustered"]["widening"] is None  # all are right
    assert build(rows[:2])["clustered"]["ci_low"] is None  # one prompt alone


def test_binary_rows_of_one_prompt_are_taken_together(tmp_path: Path) -> None:
    """Of 16 prompts with 4 answers each, 96 rows, 8 prompts are told right and 8 wrong: sums of
    residuals +3 and -3, variance 16/15 * 144 / 96^2 = 1/60; of independent rows 1/4 / 96."""
    rows = [
        {"prompt": f"question {n}", "chosen": f"answer {a}", "rejected": f"answer {b}"}
        for n in range(16)
        for a, b in combinations(range(4), 2)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    convert("trl-preference", tmp_path / "pairs.jsonl", tmp_path / "out")
    records = list(read_jsonl(tmp_path / "out" / "records.jsonl", RankingRecord))
    scores = [(1.0, 0.0) if index < 48 else (0.0, 1.0) for index in range(96)]
    report = build(list(pair_rows(records, scores)))
    assert (report["pairs"], report["accuracy"]) == (96, 0.5)
    half = 2.13144955 / sqrt(60)  # t(15)
    assert report["clustered"]["ci_low"] == pytest.approx(0.5 - half)
    assert report["clustered"]["widening"] == pytest.approx(sqrt(384 / 60))
    assert report["kendall"]["ci_low"] == pytest.approx(-2 * half)  # a row's tau is 1 or -1


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
    assert report["correlations"][0]["noise_free"] is None


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


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no held-out pairs"):
        build([])


def test_tables_that_the_pairs_cannot_give_are_named() -> None:
    one_grade = build(make_rows([1.0, -0.5, 1.0, 2.0]))["not_given"]
    assert "trend over grades: every graded pair has grade 3" in one_grade
    assert any(sentence.startswith("position: ") for sentence in one_grade)
    none = build(make_rows([1.0, -0.5], grade=None))["not_given"]
    assert "accuracy by grade, and its trend: no held-out pair has a grade" in none
    both = build(make_rows([1.0, -0.5], grade=2) + make_rows([1.0], grade=4))["not_given"]
    assert not any("grade" in sentence for sentence in both)


def test_every_table_is_flat_and_a_row_like_its_neighbours() -> None:
    rows = make_rows(
        [1, -1, 2, 0.5, -0.2, 3] * 6, grade=2, category=("a", "b", "c"), label="helpful"
    )
    written = tables(build(rows))
    assert [row["temperature"] for row in written["rm_reliability"]].count(1.0) > 0
    for table in written.values():
        assert all(list(row) == list(table[0]) for row in table)
        assert not any(isinstance(value, (list, dict)) for row in table for value in row.values())
    assert written["rm_kendall"][-1]["responses"] == "all"
