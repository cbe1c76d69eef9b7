from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rlhf.ppo.controllers import ScoreNormaliser
from rlhf.ppo.experience import make_experience
from rlhf.ppo.measure import judged, measure, repetition, since_start
from rlhf.ppo.types import Rollout
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import FakeRoles

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


def test_kl_is_k3_whatever_the_penalty(roles: FakeRoles, rollout: Rollout) -> None:
    """Every token is twice as likely as the reference has it; of 21 tokens in 6 responses."""
    section = ppo_section()
    normaliser = ScoreNormaliser(section.score, (None, None))
    experience = make_experience(roles, rollout, section, kl_coef=0.1, normaliser=normaliser)
    ref_logprobs = experience.old_logprobs - math.log(2)
    penalised = torch.zeros_like(experience.kl)
    experience = replace(experience, ref_logprobs=ref_logprobs, kl=penalised)
    expected = 21 / 6 * (math.log(2) - 0.5)
    assert measure(rollout, experience)["kl"] == pytest.approx(expected, rel=1e-4)


def test_repetition_by_hand() -> None:
    assert repetition([1, 2, 3, 4]) == 0.0
    assert repetition([7] * 6) == 0.75  # four trigrams, one of them new
    assert repetition([1, 2]) == 0.0
