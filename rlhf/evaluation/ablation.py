"""Variants of one run side by side: each figure with its interval, and its distance from the
baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.evaluation.cells import Table, credit
from rlhf.evaluation.folder import write_csv, write_json
from rlhf.evaluation.page import MINUS, NONE
from rlhf.evaluation.run_files import RunFiles, load
from rlhf.evaluation.statistics import clustered_interval, mean_interval
from rlhf.evaluation.summary import summarise
from rlhf.runtime.files import write_text

WITH_INTERVAL = ("accuracy", "tau", "win_minus_lose")
"""Endings of the figures in report.json that have `ci_low` and `ci_high` beside them."""
VERDICTS = {"win": 1.0, "tie": 0.0, "lose": -1.0}

Items = dict[str, tuple[str, float]]
"""What a figure is the mean of, by id: the prompt, and the value."""
Interval = tuple[float | None, float | None, float | None]
NOTHING: Interval = (None, None, None)


@dataclass(frozen=True)
class Outcome:
    """One variant's run with one seed. report: its figures. items: those of a metric's path."""

    variant: str
    seed: int
    report: dict[str, Any]
    items: dict[str, Items]

    @classmethod
    def read(cls, variant: str, seed: int, run_dir: Path) -> Outcome:
        """From a run directory; what it lacks has no figures."""
        files = load(run_dir)
        return cls(variant, seed, summarise(files), _items(files))


def compare(outcomes: Sequence[Outcome], baseline: str, metrics: Mapping[str, str]) -> Table:
    """A row for each variant and metric: the mean over seeds, and its distance from the baseline's.

    With several seeds both have Student's interval over seeds, the distance paired by seed. With
    one seed, the figure has the interval that its report gives, and the distance one that is paired
    by pair or prompt and clustered by prompt, where the report's figure is a mean over such.

    Raises:
        ValueError: a metric's path leads to no number in a report.
    """
    runs: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        runs.setdefault(outcome.variant, []).append(outcome)
    table = []
    for variant, mine in runs.items():
        for title, path in metrics.items():
            value, low, high = _level(mine, path)
            distance = NOTHING if variant == baseline else _distance(mine, runs[baseline], path)
            row = {"variant": variant, "metric": title, "path": path, "seeds": len(mine)}
            row |= {"value": value, "ci_low": low, "ci_high": high}
            names = ("difference", "difference_low", "difference_high")
            table.append(row | dict(zip(names, distance, strict=True)))
    return table


def lines(table: Table) -> list[list[str]]:
    """For the eye: a line a variant, its name and then two cells a metric, level and distance."""
    found: dict[str, list[str]] = {}
    for row in table:
        level = _text(row["value"], row["ci_low"], row["ci_high"], "")
        distance = _text(row["difference"], row["difference_low"], row["difference_high"], "+")
        found.setdefault(row["variant"], [row["variant"]]).extend((level, distance))
    return list(found.values())


def headings(table: Table, baseline: str) -> list[str]:
    """Of the columns of `lines`."""
    titles = dict.fromkeys(row["metric"] for row in table)
    return ["variant", *(text for title in titles for text in (title, f"less {baseline}"))]


def write(folder: Path, table: Table, baseline: str, facts: Mapping[str, Any]) -> None:
    """ablation.json (with the facts), ablation.csv and ablation.md in `folder`."""
    write_csv(folder / "ablation.csv", table)
    write_json(folder / "ablation.json", {**facts, "table": table})
    columns = headings(table, baseline)
    rows = [columns, ["---"] * len(columns), *lines(table)]
    write_text(folder / "ablation.md", "".join(f"| {' | '.join(row)} |\n" for row in rows))


def figure(report: Mapping[str, Any], path: str) -> float | None:
    """The number at a path such as rm.accuracy; None where the report gives null.

    Raises:
        ValueError: there is no such key, or no number.
    """
    value: Any = report
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            here = f"; there are {', '.join(value)}" if isinstance(value, Mapping) else ""
            raise ValueError(f"ablation.metrics: report.json has no {path}{here}")
        value = value[part]
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"ablation.metrics: {path} is no number in report.json; name one inside")
    return value


def _level(runs: Sequence[Outcome], path: str) -> Interval:
    values = [value for run in runs if (value := figure(run.report, path)) is not None]
    if len(values) < len(runs):
        return NOTHING
    if len(values) > 1:
        return mean_interval(values)
    place, _, name = path.rpartition(".")
    ending = next((ending for ending in WITH_INTERVAL if name.endswith(ending)), None)
    if ending is None:
        return values[0], None, None
    low, high = (f"{place}.{name.removesuffix(ending)}{bound}" for bound in ("ci_low", "ci_high"))
    return values[0], figure(runs[0].report, low), figure(runs[0].report, high)


def _distance(runs: Sequence[Outcome], baseline: Sequence[Outcome], path: str) -> Interval:
    by_seed = {run.seed: run for run in baseline}
    pairs = [(run, by_seed[run.seed]) for run in runs]
    values = [(figure(run.report, path), figure(base.report, path)) for run, base in pairs]
    differences = [a - b for a, b in values if a is not None and b is not None]
    if len(differences) < len(pairs):
        return NOTHING
    if len(differences) > 1:
        return mean_interval(differences)
    mine, theirs = (run.items.get(path, {}) for run in pairs[0])
    if not mine or mine.keys() != theirs.keys():
        return differences[0], None, None
    gaps = [value - theirs[name][1] for name, (_, value) in mine.items()]
    return clustered_interval(gaps, [prompt for prompt, _ in mine.values()])


def _items(files: RunFiles) -> dict[str, Items]:
    """Of the figures that are plain means of items that other variants have too."""
    pairs = {row.id: (row.prompt_id, credit(row.margin)) for row in files.last.pairs}
    judged = {row.id: (row.prompt_id, VERDICTS[row.verdict]) for row in files.last.judge}
    return {"rm.accuracy": pairs, "ppo.judge.win_minus_lose": judged}


def _text(value: float | None, low: float | None, high: float | None, sign: str) -> str:
    if value is None:
        return NONE
    shown = f"{value:{sign}.3f}"
    if low is not None and high is not None:
        shown += f" ({low:{sign}.3f} to {high:{sign}.3f})"
    return shown.replace("-", MINUS)
