"""What is drawn of a kind of stage: every metric of metrics.jsonl, a line a run, model or round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import NamedTuple

from rlhf.apps.dashboard.runs import Row, Run, Stage

MOST_POINTS = 400
"""A line's points, thinned to this many: no screen shows more."""
PALETTE = ("#2b6a9b", "#c4752a", "#46896a", "#8565ab", "#b3403a", "#5b9bd5", "#8a7a2e", "#7f7f7f")


class Point(NamedTuple):
    """step: as the log counts; value: the mean over the last steps; line: what it is of."""

    step: int
    value: float
    line: str


@dataclass(frozen=True)
class Chart:
    """One metric. title, unit: for the reader. points: of all its lines."""

    metric: str
    title: str
    unit: str
    points: list[Point]

    @property
    def mark(self) -> str:
        """What it is drawn with: lines of one point each would not be seen."""
        alone = len({point.line for point in self.points}) == len(self.points)
        return "point" if alone else "line"


# By kind of stage: the metrics that tell how it goes, in the order of their importance.
MAIN: dict[str, dict[str, tuple[str, str]]] = {
    "sft": {
        "loss": ("Loss in training", "nats per token"),
        "eval_loss": ("Loss, held out", "nats per token"),
        "learning_rate": ("Learning rate", ""),
        "grad_norm": ("Gradient norm", ""),
    },
    "dpo": {
        "loss": ("DPO loss in training", "nats per pair"),
        "eval_loss": ("DPO loss, held out", "nats per pair"),
        "eval_accuracy": ("Held-out pairs told right", "share"),
        "learning_rate": ("Learning rate", ""),
        "grad_norm": ("Gradient norm", ""),
    },
    "rm": {
        "loss": ("Ranking loss in training", "nats per pair"),
        "eval_loss": ("Ranking loss, held out", "nats per pair"),
        "eval_accuracy": ("Held-out pairs told right", "share"),
        "learning_rate": ("Learning rate", ""),
        "grad_norm": ("Gradient norm", ""),
    },
    "ppo": {
        "score": ("Score of the reward model", "mean of the answers"),
        "judge": ("Quality by the judge", "mean of the answers"),
        "kl": ("KL to the SFT model", "nats per answer"),
        "response_length": ("Answer length", "tokens"),
        "entropy": ("Entropy of the policy", "nats per token"),
        "eos_rate": ("Answers that end by themselves", "share"),
        "explained_variance": ("What the critic explains", "share of variance"),
        "repetition": ("Repetition in an answer", "share of 3-grams"),
        "alarms": ("Alarms", "ringing"),
    },
}
ROUND = "round {number}"
X_TITLES = {"ppo": "iteration"}
FIRST = {"ppo": 1}
"""What the log calls the step that metrics.jsonl calls 0, where that is another."""


def kinds(stages: Sequence[Stage]) -> list[str]:
    """Kinds of stages that have curves, the one that began last at the end."""
    begun = sorted(stages, key=lambda stage: stage.started or "", reverse=True)
    newest = dict.fromkeys(s.kind for s in begun if s.step is not None and s.kind in MAIN)
    return [*newest][::-1]


def charts(
    runs: Sequence[Run],
    kind: str,
    window: int,
    every_metric: bool,
    say: Callable[[str], str] = str,
) -> list[Chart]:
    """Every chart that has a point.

    Args:
        kind: of stage, one of MAIN.
        window: steps that a point is the mean of, but for what is rare or a count.
        every_metric: also those that only debugging needs.
        say: English to the reader's language, for what rounds are called.
    """
    lines = _lines(runs, kind, say)
    names = {name for rows in lines.values() for row in rows for name in row}
    main = MAIN[kind]
    wanted = [*main, *(sorted(names - main.keys() - {"step"}) if every_metric else ())]
    drawn = []
    for metric in wanted:
        title, unit = main.get(metric, (metric.replace("_", " ").capitalize(), ""))
        mean = 1 if metric == "alarms" or metric.startswith("eval_") else window
        points = [
            point._replace(step=point.step + FIRST.get(kind, 0))
            for label, rows in lines.items()
            for point in _points(rows, metric, label, mean)
        ]
        if points:
            drawn.append(Chart(metric, title, unit, points))
    return drawn


def colours(lines: Sequence[str]) -> dict[str, str]:
    """Another one for each line: of the palette, then of hues far from the last ones."""
    return {
        line: PALETTE[place] if place < len(PALETTE) else _hue(place)
        for place, line in enumerate(lines)
    }


def _hue(place: int) -> str:
    """The golden ratio leads every next hue into the widest gap."""
    light = (0.3, 0.65)[place % 2]
    parts = hls_to_rgb((0.3 + 0.618034 * place) % 1, light, 0.6)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _lines(runs: Sequence[Run], kind: str, say: Callable[[str], str]) -> dict[str, list[Row]]:
    """Rows by what they are of; a name says only what tells one from the others."""
    found: dict[tuple[str, str], list[Row]] = {}
    for run in runs:
        rounds = run.rounds()
        if kind == "sft":
            models = sorted(path.name for path in (run.root / "sft").glob("*") if path.is_dir())
            parts = [(name, f"sft/{name}") for name in models]
        else:
            parts = [
                (say(ROUND).format(number=number), f"{before}{kind}") for number, before in rounds
            ]
        for part, key in parts:
            if rows := run.rows(key):
                found[run.name, part] = rows
    parts_of = Counter(run for run, _ in found)
    return {
        ", ".join(
            [
                *([run] if len(parts_of) > 1 or parts_of[run] == 1 else []),
                *([part] if parts_of[run] > 1 else []),
            ]
        ): rows
        for (run, part), rows in found.items()
    }


def _points(rows: Sequence[Row], key: str, line: str, window: int) -> list[Point]:
    kept = [row for row in rows if _is_number(row.get("step")) and _is_number(row.get(key))]
    points = []
    for end, row in enumerate(kept, start=1):
        mean = fmean(other[key] for other in kept[max(0, end - window) : end])
        points.append(Point(row["step"], mean, line))
    stride = -(-len(points) // MOST_POINTS) or 1
    return points[::-1][::stride][::-1]  # the newest is always there


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and isfinite(value)
