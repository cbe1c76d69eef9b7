"""Runs whose end is known, of the real roles, through the production loop: a bandit comes to its
optimum, and the monitors catch a reward model that is gamed and steps that are far too long."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.generation import Completion
from rlhf.models.checkpoint import score_statistics
from rlhf.models.roles import Roles
from rlhf.ppo import Stopped, train
from rlhf.ppo.measure import Judge
from rlhf.runtime import checkpoint
from rlhf.runtime.metrics import MetricsLog, read_rows
from tests.ppo import taught
from tests.ppo.conftest import both_rates, ppo_section, wild
from tests.ppo.taught import EOS, PROMPTS, WORDS

LIKED, SECOND = WORDS[2], WORDS[4]


def _likes_length(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """What the flawed reward model learns: a good beginning counts, and so does every token."""
    return 2.0 * (input_ids[:, 2] == LIKED) + 0.1 * attention_mask.sum(dim=1)


def _judge(prompts: Sequence[int], completions: Sequence[Completion]) -> list[float]:
    """Sees the good beginning too, and likes answers of 12 to 16 tokens, not longer ones."""
    lengths = [len(answer.token_ids) for answer in completions]
    return [
        2.0 * (answer.token_ids[0] == LIKED) + 0.1 * min(length, 12) - 0.15 * max(0, length - 16)
        for answer, length in zip(completions, lengths, strict=True)
    ]


def _likes_two(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Likes answers that begin with one word, go on with another, or end at once."""
    padded = torch.nn.functional.pad(input_ids, (0, 1))
    first, second = padded[:, 2] == LIKED, padded[:, 3] == SECOND
    return 1.5 * first + 1.5 * (first & second) + 1.0 * (padded[:, 2] == EOS)


@dataclass
class Taught:
    """sft: ends after any token with a probability of a fifth. gamed: likes length. bandit: has
    opinions of answers of two tokens."""

    sft: Path
    gamed: Path
    bandit: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, pieces: Callable[[int], bytes]) -> Taught:
    folder = tmp_path_factory.mktemp("taught")
    sft = taught.sft_model(folder / "sft", pieces, end=0.2)
    return Taught(
        sft,
        taught.reward_model(folder / "gamed", sft, _likes_length, longest=28),
        taught.reward_model(folder / "bandit", sft, _likes_two, longest=2, steps=120),
    )


def _train(
    roles: Roles, directory: Path, reward: Path, judge: Judge | None = None, **changes: Any
) -> list[dict[str, Any]]:
    """The rows of a run; `Stopped` passes through."""
    with MetricsLog(directory) as metrics:
        train(
            roles,
            PROMPTS,
            ppo_section(**changes),
            score_statistics=score_statistics(reward),
            output_dir=directory,
            seed=3,
            metrics=metrics,
            judge=judge,
        )
    return read_rows(directory / "metrics.jsonl")


HACKED: dict[str, Any] = {
    "iterations": 18,
    "rollout_batch": 64,
    "minibatch": 32,
    "microbatch": 32,
    "epochs": 2,
    "critic_warmup": 2,
    "kl": {"initial": 0.0, "final": 0.0},
    "score": {"normalisation": "fixed", "missing_eos_penalty": 0.0},
    "sampling": {"max_new_tokens": 28},
    **both_rates(1.5e-3),
}


def test_a_gamed_reward_model_is_caught_before_the_judge_falls(
    models: Taught, tmp_path: Path
) -> None:
    def run(name: str, **changes: Any) -> list[dict[str, Any]]:
        roles = taught.roles_of("shared", models.sft, models.gamed)
        return _train(roles, tmp_path / name, models.gamed, _judge, **HACKED, **changes)

    unwatched = run("unwatched")
    assert unwatched[-1]["score_gain"] > 1.0
    assert unwatched[-1]["judge_gain"] < -0.5  # what the alarms are to prevent
    for metric in ("response_growth", "judge_gap"):
        with pytest.raises(Stopped, match=f"ppo iteration .*: {metric} .* is past"):
            run(metric, monitors={metric: {"action": "stop"}})
        rows = read_rows(tmp_path / metric / "metrics.jsonl")
        assert rows[-1]["judge_gain"] > -2 / 64**0.5, "two standard errors of a batch's mean"


def _wild(action: str, rate: float, **monitors: Any) -> dict[str, Any]:
    return {**wild(action, rate, **monitors), "sampling": {"max_new_tokens": 16}}


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_a_learning_rate_100_times_too_high_is_stopped(
    models: Taught, kind: str, tmp_path: Path
) -> None:
    def roles() -> Roles:
        return taught.roles_of(kind, models.sft, models.gamed)

    right = _train(roles(), tmp_path / "right", models.gamed, **_wild("stop", 1e-3))
    assert len(right) == 8
    with pytest.raises(Stopped, match="clip_fraction .* lower the learning rate"):
        _train(roles(), tmp_path / "wild", models.gamed, **_wild("stop", 0.1))
    rows = read_rows(tmp_path / "wild" / "metrics.jsonl")
    assert all(value is not None and math.isfinite(value) for row in rows for value in row.values())


def test_by_default_it_rolls_back_and_stops(
    models: Taught, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roles = taught.roles_of("separate", models.sft, models.gamed)
    section = {**_wild("stop", 0.1), "monitors": {"clip_fraction": {"action": "rollback"}}}
    with pytest.raises(Stopped, match=r"clip_fraction .*\(after 3 rollbacks: lower the learning"):
        _train(roles, tmp_path, models.gamed, **section)
    assert caplog.text.count("back to the best checkpoint, with smaller steps") == 3


def test_it_rolls_back_to_smaller_steps_and_goes_on(
    models: Taught, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roles = taught.roles_of("separate", models.sft, models.gamed)
    section = _wild("rollback", 0.1, step_factor=0.1, rollbacks=5)
    with caplog.at_level(logging.WARNING):
        rows = _train(roles, tmp_path, models.gamed, **section)
    assert [row["step"] for row in rows] == list(range(8))  # what was undone is not in the log
    assert caplog.text.count("back to the best checkpoint, with smaller steps") >= 1
    assert all(row["clip_fraction"] <= 0.5 for row in rows)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    state = checkpoint.load(newest)
    rollbacks = state["progress"]["rollbacks"]
    assert rollbacks >= 1
    assert state["actor_learner"]["scale"] == pytest.approx(0.1**rollbacks)
    assert state["critic_learner"]["scale"] == pytest.approx(0.1**rollbacks)


SAID = torch.tensor([EOS, *WORDS])
"""All that is ever said, but for half a percent."""


@torch.no_grad()
def _answers(model: Any, prompt: list[int]) -> Tensor:
    """[8, 8] log-probability of every answer of two tokens; that of ending at once is [0, 0]."""
    firsts = torch.tensor([[*prompt, first] for first in SAID])
    both = model(input_ids=firsts).logits.log_softmax(-1)
    answers = both[0, 1, SAID][:, None] + both[:, 2][:, SAID]
    answers[0] = -math.inf
    answers[0, 0] = both[0, 1, EOS]
    return answers


def test_a_bandit_ends_at_its_known_optimum(models: Taught, tmp_path: Path) -> None:
    """Under a KL penalty the best policy is known: reference * exp(score / beta), answer by answer.

    Answers have up to two tokens, so this needs the right index of every logprob, value, penalty
    and score, and credit that reaches the first token.
    """
    beta = 0.5
    roles = taught.roles_of("separate", models.sft, models.bandit)
    _train(
        roles,
        tmp_path,
        models.bandit,
        iterations=60,
        rollout_batch=128,
        minibatch=128,
        microbatch=128,
        epochs=2,
        clip=0.2,
        kl={"initial": beta, "schedule": "constant"},
        score={"normalisation": "none", "clip": None, "missing_eos_penalty": 0.0},
        sampling={"max_new_tokens": 2},
        checkpoint_every=1000,
        **both_rates(1e-2, "linear"),
    )
    pairs = torch.cartesian_prod(SAID, SAID)
    for prompt in PROMPTS:
        ids = torch.cat([torch.tensor(prompt).expand(64, 2), pairs], dim=1)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, 3] = ids[:, 2] != EOS
        gain = roles.scores(ids, mask).view(8, 8) / beta
        with roles.language_model("reference") as model:
            reference = _answers(model, prompt)
        with roles.language_model("actor") as model:
            found = _answers(model, prompt).exp().flatten()
        optimum = (reference + gain).flatten().softmax(0)
        start = 0.5 * (reference.exp().flatten() - optimum).abs().sum()
        assert start > 0.4
        assert 0.5 * (found - optimum).abs().sum() < 0.05
