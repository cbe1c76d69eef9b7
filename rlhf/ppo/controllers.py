"""What changes over a run beside the weights: KL coefficient, score scale, learning rate."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor

from rlhf.config.schema import KLSection, OptimiserSection, ScoreSection

State = dict[str, float]
ScoreStatistics = tuple[float | None, float | None]


class KLController(Protocol):
    """Gives the coefficient of the KL penalty."""

    def coefficient(self, iteration: int) -> float:
        """For the iteration, counted from 0."""

    def observe(self, kl: float, episodes: int) -> None:
        """Take in the measured KL, in nats a response, of an iteration's episodes."""

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


class ScheduledKL:
    """From `initial` to `final` over the run, which ends exactly at `final`."""

    def __init__(self, section: KLSection, iterations: int) -> None:
        self._section = section
        self._last = max(1, iterations - 1)

    def coefficient(self, iteration: int) -> float:
        start, end = self._section.initial, self._section.final
        done = iteration / self._last
        match self._section.schedule:
            case "constant":
                return start
            case "linear":
                return start + (end - start) * done
            case "cosine":
                return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
            case "exponential":
                return float(start * (end / start) ** done)
        raise AssertionError("an adaptive coefficient follows no schedule")

    def observe(self, kl: float, episodes: int) -> None:
        """A schedule does not look at the KL."""

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        """Nothing to load: the iteration says it all."""


class AdaptiveKL:
    """Steers the measured KL to a target by a proportional rule (Ziegler et al. 2019, sec. 2.2)."""

    def __init__(self, initial: float, target: float, horizon: int) -> None:
        self._coefficient = initial
        self._target = target
        self._horizon = horizon

    def coefficient(self, iteration: int) -> float:
        return self._coefficient

    def observe(self, kl: float, episodes: int) -> None:
        error = min(max(kl / self._target - 1, -0.2), 0.2)
        self._coefficient *= 1 + error * episodes / self._horizon

    def state(self) -> State:
        return {"coefficient": self._coefficient}

    def load_state(self, state: State) -> None:
        self._coefficient = state["coefficient"]


def kl_controller(section: KLSection, iterations: int) -> KLController:
    """The one that the section's schedule names."""
    if section.target is not None:
        return AdaptiveKL(section.initial, section.target, section.horizon)
    return ScheduledKL(section, iterations)


class ScoreNormaliser:
    """Scores to zero mean and unit variance, then clipped.

    The mean and variance are those stored with the reward model (`fixed`), those of all scores so
    far (`running`), or 0 and 1 (`none`).
    """

    def __init__(self, section: ScoreSection, statistics: ScoreStatistics) -> None:
        """statistics: mean and standard deviation of the reward model's scores, None if unknown.

        Raises:
            ValueError: `fixed` without statistics.
        """
        self._clip = section.clip
        self._running = section.normalisation == "running"
        self._count, self._mean, self._variance = 0, 0.0, 1.0
        if section.normalisation == "fixed":
            mean, deviation = statistics
            if mean is None or deviation is None:
                raise ValueError(
                    "ppo.score.normalisation is 'fixed' but the reward model has no score_mean and "
                    "score_std in its config.json: set ppo.score.normalisation to 'running'"
                )
            self._mean, self._variance = mean, deviation**2

    def normalise(self, scores: Tensor) -> Tensor:
        """scores: [B] raw -> [B]. A running scale takes them in first."""
        if self._running:
            self._take_in(scores.double())
        scaled = self.rescale(scores)
        return scaled if self._clip is None else scaled.clamp(-self._clip, self._clip)

    def rescale(self, raw: Tensor) -> Tensor:
        """Raw scores, or what a critic says that began as the reward model, on the scale of the
        rewards; not clipped. Scores without any spread are shifted alone: they give no scale."""
        rounding = 1e-6 * max(1.0, abs(self._mean))  # of float32: equal scores differ by so much
        spread = self._variance > rounding**2
        return (raw - self._mean) / (math.sqrt(self._variance + 1e-8) if spread else 1.0)

    def _take_in(self, scores: Tensor) -> None:
        """Merge two samples' moments (Chan et al. 1979)."""
        count, mean = len(scores), scores.mean().item()
        variance = scores.var(correction=0).item()
        total = self._count + count
        difference = mean - self._mean
        squares = self._variance * self._count + variance * count
        squares += difference**2 * self._count * count / total
        self._mean += difference * count / total
        self._count, self._variance = total, squares / total

    def state(self) -> State:
        return {"count": self._count, "mean": self._mean, "variance": self._variance}

    def load_state(self, state: State) -> None:
        self._count = int(state["count"])
        self._mean, self._variance = state["mean"], state["variance"]


def learning_rate(section: OptimiserSection, step: int, steps: int) -> float:
    """The rate of an optimiser step: a linear warm-up, then the schedule.

    Args:
        section: peak rate, schedule, warm-up steps and the fraction that the schedule ends at.
        step: from 0.
        steps: of the whole run.

    Returns:
        The learning rate.
    """
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / section.warmup_steps
    done = (step - section.warmup_steps) / max(1, steps - section.warmup_steps)
    kept = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }[section.schedule]
    low = 1.0 if section.schedule == "constant" else section.minimum
    return section.learning_rate * (low + (1 - low) * kept)
