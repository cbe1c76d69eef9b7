"""PPO's alarms, told again from the rows of metrics.jsonl by the rules of the run's config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan

from rlhf.apps.dashboard.runs import Row, Run
from rlhf.config.ppo import MonitorSection
from rlhf.ppo.monitors import MEANINGS, check


@dataclass(frozen=True)
class Watched:
    """A rule and what came of it.

    value: the newest; None before there is one. rang: first and last iteration of each alarm,
    counted from 1. ringing: the newest iteration sets it off.
    """

    metric: str
    low: float | None
    high: float | None
    action: str
    value: float | None
    rang: list[tuple[int, int]]
    ringing: bool

    @property
    def advice(self) -> str:
        """What a crossing tends to mean; how to mend it."""
        return MEANINGS[self.metric]


def watched(run: Run, key: str) -> list[Watched]:
    """Every rule with a bound, those that ring first, then those that rang.

    key: of a PPO stage.

    Raises:
        ValueError: the run's config has rules that this version does not know.
    """
    section = run.config.get("ppo") or {}
    rules = MonitorSection.model_validate(section.get("monitors") or {})
    rows: list[Row] = [
        {name: nan if value is None else value for name, value in row.items()}
        for row in run.rows(key)
        if isinstance(row.get("step"), int)
    ]
    warmup = int(section.get("critic_warmup", 0))
    rang: dict[str, list[int]] = {metric: [] for metric in rules.rules}
    for row in rows:
        for metric in {a.metric for a in check(row, rules, warming=row["step"] < warmup)}:
            rang[metric].append(row["step"] + 1)
    found = [
        Watched(
            metric=metric,
            low=rule.low,
            high=rule.high,
            action=rule.action,
            value=_newest(rows, metric),
            rang=_spans(rang[metric]),
            ringing=bool(rows) and rang[metric][-1:] == [rows[-1]["step"] + 1],
        )
        for metric, rule in rules.rules.items()
        if (rule.low, rule.high) != (None, None)
    ]
    return sorted(found, key=lambda one: (not one.ringing, not one.rang))


def _newest(rows: Sequence[Row], metric: str) -> float | None:
    return next((row[metric] for row in reversed(rows) if metric in row), None)


def _spans(iterations: Sequence[int]) -> list[tuple[int, int]]:
    """[3, 4, 5, 9] -> [(3, 5), (9, 9)]."""
    starts = [b for a, b in pairwise([-1, *iterations]) if b - a > 1]
    ends = [a for a, b in pairwise([*iterations, float("inf")]) if b - a > 1]
    return [(start, int(end)) for start, end in zip(starts, ends, strict=True)]
