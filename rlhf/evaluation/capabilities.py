"""What benchmarks say of every model of a run: its scores, and what they have lost or gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf.data.jsonl import Record, read_jsonl
from rlhf.evaluation.cells import grouped
from rlhf.evaluation.statistics import mean_interval, net_win_interval
from rlhf.ops.intervals import wilson

FOLDER = "capabilities"
"""In a run's directory, with a folder for each model."""
FILE = "questions.jsonl"
BASE = "base"


class QuestionRow(Record):
    """A line of questions.jsonl. value: of the metric, such as 1 for a right answer, and the
    higher, the better.

    id: the task that has the question, and its number there. task: that, or a group which has it.
    shots: solved examples before it.
    """

    task: str
    metric: str
    shots: int
    value: float


Models = Mapping[str, Sequence[QuestionRow]]
"""Rows by model, in the order in which the run has made them; the first is what it began with."""


def read(run_dir: Path) -> dict[str, list[QuestionRow]]:
    """The rows of every model of a run: base, sft, dpo, PPO of each round."""
    files = sorted((run_dir / FOLDER).glob(f"*/{FILE}"), key=lambda path: _order(path.parent.name))
    return {path.parent.name: list(read_jsonl(path, QuestionRow)) for path in files}


def _order(model: str) -> tuple[int, int, str]:
    """base, sft, then by round dpo and ppo; the last round's have no number."""
    name, _, number = model.partition("-")
    first = (BASE, "sft")
    return (
        first.index(name) if name in first else len(first),
        int(number) if number.isdigit() else 10**6,
        name,
    )


def means(rows: Sequence[QuestionRow]) -> dict[str, float]:
    """The score of each task, named with its metric: the mean over its questions."""
    tasks = grouped(rows, lambda row: (row.task, row.metric))
    return {
        f"{task} {metric}": fmean(row.value for row in group)
        for (task, metric), group in tasks.items()
    }


def summarise(models: Models) -> dict[str, Any] | None:
    """The part of report.json: a row for each task, with every model's score in it.

    change: against the first model, on the questions that both were asked, with its 95 % interval
    over their differences. tax: what the last model has lost against the first, the mean over
    tasks; negative where it has gained.
    """
    asked = {name: rows for name, rows in models.items() if rows}
    if not asked:
        return None
    first, *_, last = [*asked, *asked]
    tasks = [_task(name, asked) for name in _names(asked)]
    changes = [row["scores"][last]["change"] for row in tasks if last in row["scores"]]
    known = [change for change in changes if change is not None]
    return {
        "models": list(asked),
        "first": first,
        "last": last,
        "tax": 0.0 - fmean(known) if known and last != first else None,
        "tasks": tasks,
    }


def _names(models: Models) -> list[tuple[str, str]]:
    every = [(row.task, row.metric) for rows in models.values() for row in rows]
    return list(dict.fromkeys(every))


def _task(name: tuple[str, str], models: Models) -> dict[str, Any]:
    rows = {
        model: [row for row in rows if (row.task, row.metric) == name]
        for model, rows in models.items()
    }
    there = {model: group for model, group in rows.items() if group}
    some = next(iter(there.values()))
    first = rows[next(iter(models))]
    return {
        "task": name[0],
        "metric": name[1],
        "shots": max(row.shots for row in some),
        "questions": len(some),
        "scores": {
            model: _score(group) | _change(first, group, same=group is first)
            for model, group in there.items()
        },
    }


def _score(rows: Sequence[QuestionRow]) -> dict[str, Any]:
    """Mean and 95 % interval: Wilson's where an answer is right or wrong, else Student's."""
    values = [row.value for row in rows]
    if set(values) <= {0.0, 1.0}:
        low, high = wilson(sum(values), len(values))
        return {"value": fmean(values), "ci_low": low, "ci_high": high}
    if len(values) < 2:
        return {"value": fmean(values), "ci_low": None, "ci_high": None}
    mean, low, high = mean_interval(values)
    return {"value": mean, "ci_low": low, "ci_high": high}


def _change(
    before: Sequence[QuestionRow], after: Sequence[QuestionRow], same: bool
) -> dict[str, Any]:
    """Question by question, which tells a small change from chance where two intervals cannot.

    Student's interval; where no question changed, or each by a whole answer, it would have no
    width, and that of wins and losses is taken.
    """
    earlier = {row.id: row.value for row in before}
    paired = [row.value - earlier[row.id] for row in after if not same and row.id in earlier]
    if len(paired) < 2:
        none = {"change": None, "change_low": None, "change_high": None}
        return none if not paired else none | {"change": paired[0]}
    mean, low, high = mean_interval(paired)
    if len(set(paired)) == 1 and abs(mean) in (0, 1):
        better, worse = paired.count(1), paired.count(-1)
        low, high = net_win_interval(better, len(paired) - better - worse, worse)
    return {"change": mean, "change_low": low, "change_high": high}


def table(summary: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """capabilities.csv: a row for each task and model."""
    facts = ("task", "metric", "shots", "questions")
    return [
        {key: row[key] for key in facts} | {"model": model} | score
        for row in (summary["tasks"] if summary else [])
        for model, score in row["scores"].items()
    ]
