from __future__ import annotations

import pytest

from rlhf.ppo.measure import judged, repetition, since_start
from rlhf.ppo.types import Rollout

START = {"score": 1.0, "score_deviation": 2.0, "response_length": 20.0}
JUDGED = {"judge": 0.5, "judge_deviation": 0.25}


def test_gains_by_hand() -> None:
    row = {"score": 4.0, "response_length": 30.0}
    assert since_start(row, START) == {"score_gain": 1.5, "response_growth": 1.5}
    found = since_start({**row, "judge": 0.75}, {**START, **JUDGED})
    assert found == {
        "score_gain": 1.5,
        "judge_gain": 1.0,
        "judge_gap": 0.5,
        "response_growth": 1.5,
    }


def test_the_first_iteration_is_its_own_start() -> None:
    assert since_start(START, START) == {"score_gain": 0.0, "response_growth": 1.0}
    assert since_start({**START, "score": 3.0}, {**START, "score_deviation": 0.0}) == {
        "score_gain": 2.0,  # scores that do not vary have no scale
        "response_growth": 1.0,
    }


def test_the_judge_is_asked_about_the_prompts_own_answers(rollout: Rollout) -> None:
    numbers = [4, 0, 2, 9, 1, 3]

    def judge(prompts, completions):
        assert list(prompts) == numbers
        return [float(len(completion.token_ids)) for completion in completions]

    found = judged(judge, numbers, rollout)
    assert found["judge"] == pytest.approx(21 / 6)
    assert found["judge_deviation"] == pytest.approx((15.5 / 6) ** 0.5)


def test_repetition_by_hand() -> None:
    assert repetition([1, 2, 3, 4]) == 0.0
    assert repetition([7] * 6) == 0.75  # four trigrams, one of them new
    assert repetition([1, 2]) == 0.0
