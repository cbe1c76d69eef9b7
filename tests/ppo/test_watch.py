"""Runs that go wrong, through the production loop: the monitors have to catch them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.generation import Completion
from rlhf.ppo import NonFinite, Stopped, train
from rlhf.ppo.measure import Judge
from rlhf.runtime import checkpoint
from rlhf.runtime.metrics import MetricsLog, read_rows
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import FakeRoles, count_of

PROMPTS = [[3, 7], [7, 3], [4, 4], [6, 5]]


def _train(
    roles: FakeRoles, directory: Path, judge: Judge | None = None, **changes: Any
) -> list[dict[str, Any]]:
    """The rows of a run, also of one that is stopped; `Stopped` and `NonFinite` pass through."""
    with MetricsLog(directory) as metrics:
        train(
            roles,
            PROMPTS,
            ppo_section(**changes),
            score_statistics=(None, None),
            output_dir=directory,
            seed=3,
            metrics=metrics,
            judge=judge,
        )
    return read_rows(directory / "metrics.jsonl")


def _taught_short_answers(roles: FakeRoles) -> FakeRoles:
    """An SFT model whose answers end after any token with a probability of a fifth."""
    generator = torch.Generator().manual_seed(0)
    target = torch.tensor([0.0, 0.0, 0.2, *[0.16] * 5])
    optimiser = torch.optim.Adam(roles.actor.parameters(), lr=1e-2)
    for _ in range(40):
        ids = torch.randint(3, 8, (32, 12), generator=generator)
        logprobs = roles.actor(input_ids=ids).logits[:, 1:].log_softmax(-1)
        optimiser.zero_grad()
        (-(logprobs * target).sum(-1).mean()).backward()
        optimiser.step()
    optimiser.zero_grad()
    roles.reference = copy.deepcopy(roles.actor).requires_grad_(False)
    return roles


def _likes_length(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The flawed reward model: a good beginning counts, and so does every token."""
    return (input_ids[:, 2] == 5) + 0.1 * attention_mask.sum(dim=1)


def _judge(prompts: Sequence[int], completions: Sequence[Completion]) -> list[float]:
    """Sees the good beginning too, and likes answers of 12 to 16 tokens, not longer ones."""
    lengths = [len(answer.token_ids) for answer in completions]
    return [
        (answer.token_ids[0] == 5) + 0.1 * min(length, 12) - 0.15 * max(0, length - 16)
        for answer, length in zip(completions, lengths, strict=True)
    ]


HACKED: dict[str, Any] = {
    "iterations": 16,
    "rollout_batch": 64,
    "minibatch": 32,
    "microbatch": 32,
    "epochs": 2,
    "critic_warmup": 2,
    "kl": {"initial": 0.0, "final": 0.0},
    "score": {"normalisation": "running", "missing_eos_penalty": 0.0},
    "sampling": {"max_new_tokens": 28},
    "actor_optimiser": {"learning_rate": 2e-3, "schedule": "constant"},
    "critic_optimiser": {"learning_rate": 2e-3, "schedule": "constant"},
}


def test_a_hacked_reward_model_is_caught_before_the_judge_falls(tmp_path: Path) -> None:
    sft = _taught_short_answers(FakeRoles(_likes_length, vocabulary=8))
    unwatched = _train(copy.deepcopy(sft), tmp_path / "unwatched", _judge, **HACKED)
    assert unwatched[-1]["score_gain"] > 1.0
    assert unwatched[-1]["judge_gain"] < -0.5  # what the alarms are to prevent
    for metric in ("response_growth", "judge_gap"):
        folder = tmp_path / metric
        with pytest.raises(Stopped, match=f"ppo iteration .*: {metric} .* is past"):
            monitors = {metric: {"action": "stop"}}
            _train(copy.deepcopy(sft), folder, _judge, **HACKED, monitors=monitors)
        rows = read_rows(folder / "metrics.jsonl")
        assert rows[-1]["judge_gain"] > -2 / 64**0.5, "two standard errors of a batch's mean"


ALARMS = ("score_gain", "kl", "entropy", "clip_fraction", "repetition")


def _wild(action: str, rate: float, **monitors: Any) -> dict[str, Any]:
    """1e-3 learns this well; every rule that a wild actor breaks has the action."""
    optimiser = {"learning_rate": rate, "schedule": "constant"}
    return {
        "iterations": 8,
        "rollout_batch": 32,
        "minibatch": 16,
        "microbatch": 16,
        "epochs": 2,
        "critic_warmup": 1,
        "checkpoint_every": 1,
        "actor_optimiser": optimiser,
        "critic_optimiser": optimiser,
        "monitors": {**{metric: {"action": action} for metric in ALARMS}, **monitors},
    }


def test_a_learning_rate_100_times_too_high_is_stopped(roles: FakeRoles, tmp_path: Path) -> None:
    assert len(_train(roles, tmp_path / "right", **_wild("stop", 1e-3))) == 8
    with pytest.raises(Stopped, match="clip_fraction .* lower the learning rate"):
        _train(FakeRoles(count_of(5)), tmp_path / "wild", **_wild("stop", 0.1))
    rows = read_rows(tmp_path / "wild" / "metrics.jsonl")
    assert all(value is not None and math.isfinite(value) for row in rows for value in row.values())


def test_by_default_it_rolls_back_and_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wild = {**_wild("stop", 0.1), "monitors": {"clip_fraction": {}}}
    with pytest.raises(Stopped, match=r"clip_fraction .*\(after 3 rollbacks: lower the learning"):
        _train(FakeRoles(count_of(5)), tmp_path, **wild)
    assert caplog.text.count("back to the best checkpoint, with smaller steps") == 3


def test_it_rolls_back_to_smaller_steps_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roles = FakeRoles(count_of(5))
    wild = _wild("rollback", 0.1, step_factor=0.2, rollbacks=5)
    with caplog.at_level(logging.WARNING):
        rows = _train(roles, tmp_path, **wild)
    assert [row["step"] for row in rows] == list(range(8))  # what was undone is not in the log
    assert caplog.text.count("back to the best checkpoint, with smaller steps") >= 2
    assert all(row["clip_fraction"] <= 0.5 for row in rows)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    state = checkpoint.load(newest)
    rollbacks = state["progress"]["rollbacks"]
    assert state["actor_learner"]["scale"] == pytest.approx(0.2**rollbacks)
    assert state["critic_learner"]["scale"] == pytest.approx(0.2**rollbacks)


def test_rollbacks_come_to_an_end(roles: FakeRoles, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"after 2 rollbacks: lower the learning rates"):
        _train(roles, tmp_path, **_wild("rollback", 0.1, step_factor=0.9, rollbacks=2))


class _NanOnce:
    """Scores that are NaN the third time they are asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.calls += 1
        scores = count_of(5)(input_ids, attention_mask)
        return scores * math.nan if self.calls == 3 else scores


def test_what_is_not_finite_rolls_back_when_asked_to(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"iterations": 4, "minibatch": 6, "microbatch": 6}
    with pytest.raises(NonFinite):
        _train(FakeRoles(_NanOnce()), tmp_path / "stop", **changes)
    monitors = {"non_finite": "rollback"}
    rows = _train(FakeRoles(_NanOnce()), tmp_path / "back", **changes, monitors=monitors)
    assert len(rows) == 4
    assert all(row["value_loss"] is not None for row in rows)
    assert (tmp_path / "back" / "refused_minibatch.safetensors").is_file()


@pytest.mark.parametrize("alarms", [1, 2])
def test_the_best_checkpoint_is_kept_and_gone_back_to(
    roles: FakeRoles, tmp_path: Path, alarms: int
) -> None:
    """The judge likes the answers of one iteration; some later ones set off an alarm each, the
    second right after the way back."""
    liked = iter([0.0, 0.1, 3.0, 0.2, 0.1, *[-9.0] * alarms, *[0.1] * 20])

    def judge(prompts: Sequence[int], completions: Sequence[Completion]) -> list[float]:
        quality = next(liked)
        return [quality + 0.01 * (i % 2) for i in range(len(completions))]

    seen = []
    with MetricsLog(tmp_path) as metrics:
        train(
            roles,
            PROMPTS,
            ppo_section(
                iterations=7,
                checkpoint_every=1,
                keep_checkpoints=1,
                monitors={"judge_gain": {"low": -100.0, "action": "rollback"}, "judge_gap": None},
            ),
            score_statistics=(None, None),
            output_dir=tmp_path,
            seed=3,
            metrics=metrics,
            judge=judge,
            on_iteration=lambda done, *_: seen.append(done),
        )
    # The judge's third look is at the actor of checkpoint 2, which is where the run goes back to.
    assert seen == [1, 2, 3, 4, 5, 3, 4, 5, 6, 7]
