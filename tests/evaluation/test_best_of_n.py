from __future__ import annotations

import json
from math import log
from pathlib import Path

import pytest

from rlhf.data.jsonl import write_jsonl
from rlhf.evaluation import best_of_n, rm_report
from rlhf.evaluation.best_of_n import AnswerRow, curve
from tests.evaluation.pages import read_page
from tests.evaluation.rows import make_rows


def answers(prompt: str, pairs: list[tuple[float, float]]) -> list[AnswerRow]:
    return [
        AnswerRow(
            id=f"{prompt}/{turn}",
            prompt_id=prompt,
            text="text",
            score=score,
            quality=quality,
            judge="rubric",
        )
        for turn, (score, quality) in enumerate(pairs)
    ]


ROWS = [
    *answers("a", [(0.0, 1.0), (2.0, 3.0), (1.0, 5.0), (3.0, 7.0)]),
    *answers("b", [(0.0, 4.0), (2.0, 4.0), (1.0, 4.0), (3.0, 0.0)]),
]


def test_the_curve_by_hand():
    one, two, four = curve(ROWS)
    assert [row["n"] for row in (one, two, four)] == [1, 2, 4]
    assert four["kl"] == pytest.approx(log(4) - 3 / 4)
    assert (one["score"], four["score"]) == (1.5, 3.0)
    # Of the six draws of two, the highest score wins three, the second two, the third one.
    assert two["score"] == pytest.approx((3 * 3 + 2 * 2 + 1) / 6)
    assert two["quality"] == pytest.approx(((3 * 7 + 2 * 3 + 5) / 6 + (3 * 0 + 2 * 4 + 4) / 6) / 2)
    assert (one["quality"], four["quality"]) == (3.5, 3.5)
    # Means 4 and 3 of the two prompts: standard error 0.5, t(1) = 12.706.
    assert one["quality_high"] == pytest.approx(3.5 + 12.706 * 0.5, abs=1e-3)
    # Scores 0, 1, 2, 3, twice: variance 1.25.
    assert four["score_gain"] == pytest.approx(1.5 / 1.25**0.5)
    assert four["quality_gain"] == 0


def test_each_gain_has_its_own_scale():
    _, two = curve(answers("a", [(0.0, 0.0), (2.0, 10.0)]))
    assert (two["score_gain"], two["quality_gain"]) == (1.0, 1.0)


def test_it_goes_as_far_as_every_prompt_has_answers():
    rows = ROWS + answers("c", [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)])
    assert [row["n"] for row in curve(rows)] == [1, 2]
    assert curve([]) == []


def test_one_prompt_has_no_interval_and_equal_answers_no_gain():
    rows = answers("a", [(1.0, 2.0), (1.0, 2.0)])
    assert [(row["quality_low"], row["quality_gain"]) for row in curve(rows)] == [(None, 0.0)] * 2


def test_it_is_part_of_the_reward_models_report(tmp_path: Path):
    (tmp_path / "rm").mkdir()
    write_jsonl(tmp_path / "rm/pairs.jsonl", make_rows([1.0, -2.0, 3.0]))
    folder, rm = rm_report.write(tmp_path)
    assert rm["best_of_n"] == [] and not (folder / "rm_best_of_n.png").exists()
    (tmp_path / "evaluate").mkdir()
    write_jsonl(tmp_path / best_of_n.FILE, ROWS)
    folder, rm = rm_report.write(tmp_path)
    assert json.loads((folder / "report.json").read_text("utf-8"))["rm"]["best_of_n"] == curve(ROWS)
    assert (folder / "rm_best_of_n.png").is_file()
    assert (folder / "rm_best_of_n.csv").read_text("utf-8").startswith("n,kl,prompts,score,")
    assert "Best of n answers by score" in read_page(folder / "index.html")
