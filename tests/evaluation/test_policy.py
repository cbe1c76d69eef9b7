from __future__ import annotations

from typing import Any

import pytest

from rlhf.data.records import Message, PromptRecord
from rlhf.evaluation.policy import JudgeRow, compare_rows, samples, summarise, tally, verdict


def make_prompt(identity: str, **fields: Any) -> PromptRecord:
    return PromptRecord(
        id=identity, messages=(Message(role="user", content=f"question {identity}"),), **fields
    )


def make_rows(
    differences: list[float],
    labels: list[str] | None = None,
    before: str = "old",
    after: str = "new",
) -> list[JudgeRow]:
    labels = labels or ["helpful"] * len(differences)
    prompts = [make_prompt(f"p{i:02d}", label=label) for i, label in enumerate(labels)]
    count = len(prompts)
    rows = compare_rows(
        prompts, [before] * count, [after] * count, [0.0] * count, differences, judge="rubric"
    )
    return list(rows)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1.0, 1.5, "win"),
        (1.5, 1.0, "lose"),
        (1.0, 1.25, "tie"),
        (1.25, 1.0, "tie"),
        (2.0, 2.0, "tie"),
    ],
)
def test_a_difference_within_the_tolerance_is_a_tie(
    before: float, after: float, expected: str
) -> None:
    assert verdict(before, after, tolerance=0.25) == expected


def test_a_row_by_hand() -> None:
    prompt = make_prompt("p1", label="harmless", language="zh", category=("safety", "x"))
    (row,) = compare_rows([prompt], ["a"], ["b"], [3.0], [2.0], judge="rm", simulated=True)
    assert row == JudgeRow(
        id="p1",
        prompt_id="p1",
        prompt="question p1",
        before="a",
        after="b",
        verdict="lose",
        category=("safety", "x"),
        label="harmless",
        language="zh",
        before_quality=3.0,
        after_quality=2.0,
        judge="rm",
        simulated=True,
    )


def test_the_same_answer_twice_is_a_tie_whatever_its_last_bits() -> None:
    (row,) = make_rows([0.004], before="as before", after="as before")
    assert (row.verdict, row.after_quality) == ("tie", 0.004)


def test_a_quality_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt p00: judge rubric gives 0.0 and inf"):
        make_rows([float("inf")])


def test_tally_counts_and_the_difference_of_shares() -> None:
    result = tally(make_rows([1, 1, 1, 0, -1]))
    assert (result["prompts"], result["win"], result["tie"], result["lose"]) == (5, 3, 1, 1)
    assert result["win_minus_lose"] == pytest.approx(2 / 5)
    assert result["ci_low"] < 0.4 < result["ci_high"]
    assert tally([])["win_minus_lose"] is None


def test_summary_by_kind_adds_up() -> None:
    report = summarise(make_rows([1, -1, 1, 0], ["helpful", "harmless", "helpful", "harmless"]))
    assert report["name"] == "rubric"
    assert [(row["name"], row["win"], row["tie"], row["lose"]) for row in report["by_label"]] == [
        ("harmless", 0, 1, 1),
        ("helpful", 2, 0, 0),
    ]
    assert report["by_language"] == []


def test_length_controlled_verdicts_leave_out_what_is_much_longer() -> None:
    rows = make_rows([1, 1], before="x" * 8, after="x" * 10)
    rows += make_rows([-1], before="x" * 8, after="x" * 11)
    length = summarise(rows)["length"]
    assert length["before"] == 8 and length["after"] == pytest.approx(31 / 3)
    assert (length["matched"]["win"], length["matched"]["lose"]) == (2, 0)


def test_samples_are_the_first_ids_with_one_about_harm() -> None:
    rows = make_rows([0] * 8, ["helpful"] * 6 + ["harmless"] * 2)
    assert [row.id for row in samples(rows[::-1], 3)] == ["p00", "p01", "p06"]
    assert [row.id for row in samples(rows[:6], 3)] == ["p00", "p01", "p02"]
    mixed = make_rows([0] * 4, ["helpful", "harmless", "helpful", "harmless"])
    assert [row.id for row in samples(mixed, 2)] == ["p00", "p01"]


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no verdicts"):
        summarise([])
