"""Alarms on a running loop: rules on its metrics, and what is done when one is broken."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.config.ppo import Action, MonitorSection

logger = logging.getLogger(__name__)

# By metric: what a crossing tends to mean, and how to mend it.
MEANINGS = {
    "score_gain": "the score fell; lower the learning rates or raise ppo.critic_warmup",
    "kl": "the actor has left the reference; raise ppo.kl or lower the learning rate",
    "entropy": "the actor has collapsed to few answers; raise ppo.kl",
    "response_growth": "answers' length drifts; look at the reward model or set a length penalty",
    "repetition": "answers repeat themselves; look at the reward model",
    "eos_rate": "answers are cut off; raise ppo.sampling.max_new_tokens",
    "clip_fraction": "steps are too long; lower the learning rate",
    "explained_variance": "the critic knows less than a constant; raise ppo.critic_warmup",
    "length_correlation": "the score follows length; look at the reward model",
    "judge_gain": "the judge likes the answers less than at the start; stop earlier, raise ppo.kl",
    "judge_gap": "the score rises without the judge: the reward model is gamed; raise ppo.kl",
    "engine_gap": "engine and training disagree; set ppo.engine to plain",
    "engine_gap_largest": "engine and training disagree on a token; set ppo.engine to plain",
}


@dataclass(frozen=True)
class Alarm:
    """A metric that has crossed a bound of its rule. setting: where in the config that stands."""

    metric: str
    value: float
    bound: float
    setting: str
    action: Action

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.value:.4g} is past {self.setting} = {self.bound:g}: "
            f"{MEANINGS[self.metric]}"
        )


class Stopped(RuntimeError):
    """An alarm ended the run."""


def check(row: Mapping[str, float], section: MonitorSection, *, warming: bool) -> list[Alarm]:
    """The alarms that an iteration's metrics set off.

    Args:
        row: the metrics; those of the judge may be missing.
        section: the rules.
        warming: the critic still warms up, so that what it knows is of no account yet.
    """
    alarms = []
    for metric, rule in section.rules.items():
        if metric not in row or (warming and metric == "explained_variance"):
            continue
        value = row[metric]
        # Asked this way round, NaN is past every bound.
        for side, bound, kept in (
            ("low", rule.low, rule.low is None or value >= rule.low),
            ("high", rule.high, rule.high is None or value <= rule.high),
        ):
            if bound is not None and not kept:
                setting = f"ppo.monitors.{metric}.{side}"
                alarms.append(Alarm(metric, value, bound, setting, rule.action))
    return alarms


class Monitor:
    """Says what the alarms of a run ask for."""

    def __init__(self, section: MonitorSection) -> None:
        self._most = section.rollbacks
        self._ringing: set[str] = set()

    def watch(self, done: int, alarms: Sequence[Alarm]) -> str | None:
        """Take in the alarms of iteration `done`, counted from 1.

        An alarm is warned of where it begins, since a long one would fill the screen.

        Returns:
            Why to roll back, None when there is no need to.

        Raises:
            Stopped: an alarm went off whose action is `stop`.
        """
        for alarm in alarms:
            if alarm.action == "stop":
                raise Stopped(f"ppo iteration {done}: {alarm}")
            if alarm.action == "warn" and alarm.metric not in self._ringing:
                logger.warning("ppo iteration %d: %s", done, alarm)
        self._ringing = {alarm.metric for alarm in alarms}
        reasons = [str(alarm) for alarm in alarms if alarm.action == "rollback"]
        return f"ppo iteration {done}: {reasons[0]}" if reasons else None

    def allow_rollback(self, reason: str, before: int) -> None:
        """Say that a rollback comes, unless there were too many.

        Args:
            reason: for it.
            before: rollbacks so far.

        Raises:
            Stopped: as many as the config allows.
        """
        if before >= self._most:
            raise Stopped(
                f"{reason} (after {before} rollbacks: lower the learning rates, or see docs/ppo.md)"
            )
        logger.warning("%s; back to the best checkpoint, with smaller steps", reason)
