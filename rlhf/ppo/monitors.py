"""Alarms on a running loop, each a bound on one of its metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.config.schema import MonitorSection

logger = logging.getLogger(__name__)

# The bound's name in the config, the metric it is on, and what the crossing tends to mean.
RULES = (
    ("kl_max", "kl", "the actor has left the reference; raise ppo.kl or lower the learning rate"),
    ("entropy_min", "entropy", "the actor has collapsed to few answers; raise ppo.kl"),
    ("clip_fraction_max", "clip_fraction", "steps are too long; lower the learning rate"),
    ("repetition_max", "repetition", "answers repeat themselves; look at the reward model"),
    ("eos_rate_min", "eos_rate", "answers are cut off; raise sampling.max_new_tokens"),
    ("engine_gap_max", "engine_gap", "engine and training disagree; set ppo.engine to plain"),
)


@dataclass(frozen=True)
class Alarm:
    """A metric that has crossed its bound."""

    metric: str
    value: float
    bound: float
    setting: str
    meaning: str

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.value:.4g} is past ppo.monitors.{self.setting} = {self.bound:g}: "
            f"{self.meaning}"
        )


class Stopped(RuntimeError):
    """An alarm whose action is `stop` ended the run."""


def check(row: Mapping[str, float], section: MonitorSection) -> list[Alarm]:
    """The alarms that an iteration's metrics set off."""
    alarms = []
    for setting, metric, meaning in RULES:
        bound, value = getattr(section, setting), row[metric]
        if bound is None:
            continue
        if value > bound if setting.endswith("_max") else value < bound:
            alarms.append(Alarm(metric, value, bound, setting, meaning))
    return alarms


class Monitor:
    """Acts on the alarms of a run as its config says."""

    def __init__(self, section: MonitorSection) -> None:
        self._section = section
        self._ringing: set[str] = set()

    def watch(self, done: int, alarms: Sequence[Alarm]) -> None:
        """Take in the alarms of iteration `done`, counted from 1.

        An alarm is warned of where it begins, since a long one would fill the screen.

        Raises:
            Stopped: the action is `stop` and an alarm went off.
        """
        for alarm in alarms:
            if self._section.action == "stop":
                raise Stopped(f"ppo iteration {done}: {alarm}")
            if alarm.metric not in self._ringing:
                logger.warning("ppo iteration %d: %s", done, alarm)
        self._ringing = {alarm.metric for alarm in alarms}


def repetition(token_ids: Sequence[int], n: int = 3) -> float:
    """Share of a response's n-grams that it holds already; 0 for one shorter than n tokens."""
    grams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
