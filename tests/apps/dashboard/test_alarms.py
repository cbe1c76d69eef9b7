from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.apps.dashboard.alarms import watched
from rlhf.apps.dashboard.runs import Run
from tests.apps.dashboard.worlds import make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("a", make_run(tmp_path / "a"))


def test_alarms_are_those_of_the_loop(run: Run) -> None:
    first, *rest = watched(run, "ppo")
    assert (first.metric, first.high, first.action) == ("kl", 1.0, "rollback")
    assert (first.rang, first.ringing, first.value) == ([(3, 4), (7, 7)], True, 4.0)
    assert "raise ppo.kl" in first.advice
    assert not any(one.rang or one.ringing for one in rest)  # the critic's first is its warm-up


def test_an_alarm_that_is_over_and_a_rule_without_bounds(run: Run) -> None:
    first = watched(run, "rounds/1/ppo")[0]
    assert (first.rang, first.ringing) == ([(3, 3)], True)
    (run.root / "rounds/1/ppo/metrics.jsonl").open("a").write('{"step": 3, "kl": 0.1}\n')
    first = watched(run, "rounds/1/ppo")[0]
    assert (first.rang, first.ringing, first.value) == ([(3, 3)], False, 0.1)
    assert "entropy" not in {one.metric for one in watched(run, "ppo")}


def test_a_value_that_is_no_number_is_past_every_bound(run: Run) -> None:
    (run.root / "ppo/metrics.jsonl").write_text('{"step": 0, "kl": null}\n')
    assert watched(run, "ppo")[0].rang == [(1, 1)]


def test_nothing_has_rung_before_the_first_iteration(run: Run) -> None:
    assert all(one.value is None and not one.ringing for one in watched(run, "nowhere"))
