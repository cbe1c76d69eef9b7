from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf.config.schema import PPOSection
from rlhf.generation import Completion
from rlhf.generation.types import StopReason
from rlhf.ppo.rollout import assemble
from rlhf.ppo.types import Rollout
from tests.ppo.fakes import EOS, FakeRoles, count_of

STOP = 7


@pytest.fixture
def roles() -> FakeRoles:
    return FakeRoles(count_of(5))


@pytest.fixture
def rollout() -> Rollout:
    """Six responses of different lengths: three ended by EOS, two cut off, one by a stop token."""
    prompts = [[3, 4, 5], [6], [7, 8], [9, 10, 11, 12], [13, 14], [5, 5, 5]]
    responses = [[5, 6, EOS], [EOS], [5, 5, 7, 8, EOS], [9, 9, 9, 9, 9], [4, 5, 4, 5, 4], [8, STOP]]
    reasons: dict[int, StopReason] = {EOS: "eos", STOP: "stop"}
    completions = [
        Completion(tuple(ids), (-1.0,) * len(ids), reasons.get(ids[-1], "length"))
        for ids in responses
    ]
    return assemble(prompts, completions, 0, torch.device("cpu"))


def both_rates(rate: float, schedule: str = "constant") -> dict[str, Any]:
    """The learning rate of both."""
    optimiser = {"learning_rate": rate, "schedule": schedule}
    return {"actor_optimiser": optimiser, "critic_optimiser": optimiser}


ALARMS = ("score_gain", "kl", "entropy", "clip_fraction", "repetition")


def wild(action: str, rate: float, **monitors: Any) -> dict[str, Any]:
    """1e-3 learns this well; every rule that a wild actor breaks has the action."""
    return {
        "iterations": 8,
        "rollout_batch": 32,
        "minibatch": 16,
        "microbatch": 16,
        "epochs": 2,
        "critic_warmup": 1,
        "checkpoint_every": 1,
        "monitors": {**{metric: {"action": action} for metric in ALARMS}, **monitors},
        **both_rates(rate),
    }


def ppo_section(**changes: Any) -> PPOSection:
    """Small sizes; `changes` override them. Steps may be long: those of random models are."""
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
    monitors = {"clip_fraction": {"action": "warn"}, **changes.pop("monitors", {})}
    return PPOSection(**{**small, "monitors": monitors, **changes})
