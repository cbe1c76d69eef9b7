from __future__ import annotations

import pytest

from rlhf.config.schema import MonitorSection
from rlhf.ppo.monitors import check, repetition

CALM = {
    "kl": 1.0,
    "entropy": 2.0,
    "clip_fraction": 0.1,
    "repetition": 0.0,
    "eos_rate": 1.0,
    "engine_gap": 0.0,
}


def test_a_calm_row_sets_off_nothing() -> None:
    assert check(CALM, MonitorSection()) == []


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("kl", 51.0),
        ("entropy", 0.01),
        ("clip_fraction", 0.6),
        ("repetition", 0.6),
        ("eos_rate", 0.1),
        ("engine_gap", 0.3),
    ],
)
def test_each_bound_sets_off_its_own_alarm(metric: str, value: float) -> None:
    (alarm,) = check({**CALM, metric: value}, MonitorSection())
    assert alarm.metric == metric
    assert f"ppo.monitors.{metric}_" in str(alarm)


def test_null_switches_an_alarm_off() -> None:
    assert check({**CALM, "kl": 51.0}, MonitorSection(kl_max=None)) == []


def test_repetition_by_hand() -> None:
    assert repetition([1, 2, 3, 4]) == 0.0
    assert repetition([7] * 6) == 0.75  # four trigrams, one of them new
    assert repetition([1, 2]) == 0.0
