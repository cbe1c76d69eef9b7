from __future__ import annotations

import logging
from typing import Any

import pytest

from rlhf.config.ppo import MonitorSection, RuleSection
from rlhf.ppo.monitors import MEANINGS, Monitor, Stopped, check

CALM = {
    "score_gain": 0.5,
    "kl": 1.0,
    "entropy": 2.0,
    "response_growth": 1.1,
    "repetition": 0.0,
    "eos_rate": 1.0,
    "clip_fraction": 0.1,
    "explained_variance": 0.5,
    "length_correlation": 0.2,
    "judge_gain": 0.2,
    "judge_gap": 0.3,
    "engine_gap": 0.0,
    "engine_gap_largest": 0.5,
}


def _section(**changes: object) -> MonitorSection:
    return MonitorSection.model_validate(changes)


def test_every_rule_has_a_metric_and_a_meaning() -> None:
    assert set(MonitorSection().rules) == set(CALM) == set(MEANINGS)


def test_a_calm_row_sets_off_nothing() -> None:
    assert check(CALM, MonitorSection(), warming=False) == []


@pytest.mark.parametrize(
    ("metric", "value", "side"),
    [
        ("score_gain", -1.1, "low"),
        ("kl", 51.0, "high"),
        ("entropy", 0.01, "low"),
        ("response_growth", 2.1, "high"),
        ("response_growth", 0.4, "low"),
        ("repetition", 0.6, "high"),
        ("eos_rate", 0.1, "low"),
        ("clip_fraction", 0.6, "high"),
        ("explained_variance", -0.1, "low"),
        ("length_correlation", 0.9, "high"),
        ("judge_gain", -0.6, "low"),
        ("judge_gap", 1.1, "high"),
        ("engine_gap", 0.11, "high"),
        ("engine_gap", float("nan"), "high"),
        ("engine_gap_largest", 5.1, "high"),
    ],
)
def test_each_bound_sets_off_its_own_alarm(metric: str, value: float, side: str) -> None:
    (alarm,) = check({**CALM, metric: value}, MonitorSection(), warming=False)
    assert (alarm.metric, alarm.setting) == (metric, f"ppo.monitors.{metric}.{side}")
    assert f"is past ppo.monitors.{metric}.{side} = {alarm.bound:g}: " in str(alarm)


def test_null_switches_an_alarm_off_and_so_does_a_judge_that_is_not_there() -> None:
    assert check({**CALM, "kl": 51.0}, _section(kl=None), warming=False) == []
    unjudged = {name: value for name, value in CALM.items() if "judge" not in name}
    assert check(unjudged, MonitorSection(), warming=False) == []


def test_the_critic_may_know_nothing_while_it_warms_up() -> None:
    row = {**CALM, "explained_variance": -3.0}
    assert check(row, MonitorSection(), warming=True) == []
    assert len(check(row, MonitorSection(), warming=False)) == 1


def test_what_a_rule_leaves_out_keeps_its_default() -> None:
    section = _section(kl={"action": "stop"}, response_growth={"high": 3.0})
    assert section.kl == RuleSection(high=50.0, action="stop")
    assert section.response_growth == RuleSection(low=0.5, high=3.0)
    assert MonitorSection.model_validate(section.model_dump()) == section


def test_rolls_back_when_anything_does() -> None:
    assert MonitorSection().rolls_back  # steps that are far too long
    calm: dict[str, Any] = {"clip_fraction": {"action": "warn"}}
    assert not _section(**calm).rolls_back
    assert _section(**calm, kl={"action": "rollback"}).rolls_back
    assert _section(**calm, non_finite="rollback").rolls_back


def test_actions(caplog: pytest.LogCaptureFixture) -> None:
    section = _section(kl={"action": "rollback"}, entropy={"action": "stop"})
    monitor = Monitor(section)

    def watch(done: int, **changes: float) -> str | None:
        return monitor.watch(done, check({**CALM, **changes}, section, warming=False))

    with caplog.at_level(logging.WARNING):
        assert watch(1, repetition=0.6) is None and watch(2, repetition=0.7) is None
        assert caplog.text.count("repetition") == 2  # one line, which names it and its setting
        assert watch(3) is None and watch(4, repetition=0.6) is None
        assert caplog.text.count("ppo iteration") == 2  # it had been quiet in between
    assert (watch(5, kl=60.0) or "").startswith("ppo iteration 5: kl 60 is past")
    with pytest.raises(Stopped, match="ppo iteration 6: entropy"):
        watch(6, kl=60.0, entropy=0.0)


def test_too_many_rollbacks_stop() -> None:
    monitor = Monitor(_section(rollbacks=2))
    monitor.allow_rollback("why", before=1)
    with pytest.raises(Stopped, match="why .after 2 rollbacks"):
        monitor.allow_rollback("why", before=2)
