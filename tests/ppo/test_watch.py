"""Runs that go wrong at a chosen moment; those that go wrong by themselves are in test_taught."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rlhf.generation import Completion
from rlhf.ppo import NonFinite, Stopped, train
from rlhf.ppo.measure import Judge
from rlhf.runtime.metrics import MetricsLog, read_rows
from tests.ppo.conftest import ppo_section, wild
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


def test_rollbacks_come_to_an_end(roles: FakeRoles, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"after 2 rollbacks: lower the learning rates"):
        _train(roles, tmp_path, **wild("rollback", 0.1, step_factor=0.9, rollbacks=2))


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
