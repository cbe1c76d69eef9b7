"""Scores and changes of benchmarks, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.data.jsonl import write_jsonl
from rlhf.evaluation.capabilities import FILE, QuestionRow, means, read, summarise, table


def rows(values: list[float], task: str = "mmlu") -> list[QuestionRow]:
    return [
        QuestionRow(task=task, metric="acc", id=f"{task}:{i}", shots=5, value=value)
        for i, value in enumerate(values)
    ]


def test_models_stand_in_the_order_of_the_run(tmp_path: Path) -> None:
    for name in ("sft", "ppo", "dpo-1", "base", "ppo-2", "ppo-1", "ppo-10"):
        write_jsonl(tmp_path / "capabilities" / name / FILE, rows([1]))
    assert list(read(tmp_path)) == ["base", "sft", "dpo-1", "ppo-1", "ppo-2", "ppo-10", "ppo"]


def test_a_change_is_taken_question_by_question() -> None:
    """Differences 0, -1, 0, -1: mean -1/2, deviation 1/sqrt 3, so 3.182 / sqrt 12 either way."""
    found = summarise({"base": rows([1, 1, 0, 1]), "ppo": rows([1, 0, 0, 0])})
    score = found["tasks"][0]["scores"]["ppo"]
    half = 3.182446305284263 / 12**0.5
    assert score["value"] == 0.25 and score["change"] == -0.5
    assert (score["change_low"], score["change_high"]) == pytest.approx((-0.5 - half, -0.5 + half))
    assert found["tasks"][0]["scores"]["base"]["change"] is None
    assert (found["tax"], found["last"]) == (0.5, "ppo")


def test_the_tax_is_a_mean_over_tasks_whatever_their_sizes() -> None:
    before = rows([1, 1]) + rows([0, 0, 0, 0], "gsm8k")
    after = rows([0, 0]) + rows([1, 0, 0, 0], "gsm8k")
    assert summarise({"base": before, "sft": after})["tax"] == pytest.approx((1 - 0.25) / 2)


def test_only_questions_that_both_were_asked_count() -> None:
    """Another limit changes no question: the first two are compared, one of them was lost."""
    found = summarise({"base": rows([1, 1]), "sft": rows([1, 0, 1, 1, 1])})
    assert found["tasks"][0]["scores"]["sft"]["change"] == -0.5
    other = [row.model_copy(update={"id": f"x:{row.id}"}) for row in rows([1, 1])]
    assert summarise({"base": rows([1, 1]), "sft": other})["tax"] is None


def test_changes_that_are_all_alike_are_not_certain() -> None:
    """By hand for 2 questions: half a count in each cell makes 4, of which 1 differs."""
    changes = {}
    for name, after in {"none": [1, 0], "worse": [0, 0]}.items():
        before = [1, 0] if name == "none" else [1, 1]
        found = summarise({"base": rows(before), "sft": rows(after)})
        score = found["tasks"][0]["scores"]["sft"]
        changes[name] = score["change"], score["change_low"], score["change_high"]
    half = 1.959964 * (1 / 4 / 4) ** 0.5
    assert changes["none"] == pytest.approx((0, -half, half))
    half = 1.959964 * ((3 / 4 - 1 / 4) / 4) ** 0.5
    assert changes["worse"] == pytest.approx((-1, max(-1, -0.5 - half), -0.5 + half))


def test_no_change_is_no_tax_of_minus_nought() -> None:
    same = summarise({"base": rows([1, 0]), "sft": rows([1, 0])})
    assert str(same["tax"]) == "0.0"


def test_one_model_has_no_tax_and_no_models_no_part() -> None:
    assert summarise({"base": rows([1, 0])})["tax"] is None
    assert summarise({}) is None and summarise({"base": []}) is None and table(None) == []


def test_a_row_for_each_task_and_model() -> None:
    lines = table(summarise({"base": rows([1, 0]), "sft": rows([1, 1])}))
    assert [(line["model"], line["value"], line["questions"]) for line in lines] == [
        ("base", 0.5, 2),
        ("sft", 1.0, 2),
    ]
    assert means(rows([1, 0]) + rows([0], "gsm8k")) == {"mmlu acc": 0.5, "gsm8k acc": 0.0}
