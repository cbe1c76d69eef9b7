from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf.config.schema import PPOSection
from rlhf.generation import Completion
from rlhf.ppo.rollout import assemble
from rlhf.ppo.types import Rollout
from tests.ppo.fakes import EOS, FakeRoles, count_of


@pytest.fixture
def roles() -> FakeRoles:
    return FakeRoles(count_of(5))


@pytest.fixture
def rollout() -> Rollout:
    """Six prompts and responses of different lengths; the fourth and fifth were cut off."""
    prompts = [[3, 4, 5], [6], [7, 8], [9, 10, 11, 12], [13, 14], [5, 5, 5]]
    responses = [[5, 6, EOS], [EOS], [5, 5, 7, 8, EOS], [9, 9, 9, 9, 9], [4, 5, 4, 5, 4], [8, EOS]]
    completions = [
        Completion(tuple(ids), (-1.0,) * len(ids), "eos" if ids[-1] == EOS else "length")
        for ids in responses
    ]
    return assemble(prompts, completions, 0, torch.device("cpu"))


def ppo_section(**changes: Any) -> PPOSection:
    """Small sizes; `changes` override them."""
    small: dict[str, Any] = {
        "roles": "separate",
        "tuning": {"method": "full"},
        "iterations": 6,
        "rollout_batch": 6,
        "minibatch": 3,
        "microbatch": 1,
        "critic_warmup": 0,
        "max_prompt_tokens": 8,
        "score": {"normalisation": "none", "clip": None},
        "sampling": {"max_new_tokens": 5},
        "actor_optimiser": {"learning_rate": 1e-3, "schedule": "constant"},
        "critic_optimiser": {"learning_rate": 1e-3, "schedule": "constant"},
    }
    return PPOSection(**{**small, **changes})
