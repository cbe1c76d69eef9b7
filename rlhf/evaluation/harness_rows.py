"""A row for each question, from what lm-evaluation-harness returns; groups that have no score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf.evaluation.capabilities import QuestionRow

Groups = Mapping[str, Sequence[str]]
"""Names of groups with those of their parts, which may be groups too."""
Metric = tuple[str, str]
"""Its name, and that of the filter which the answers went through."""
SHOWN = 8
"""The most parts that a message names."""


def question_rows(
    found: Mapping[str, Any], loaded: Mapping[str, Any], names: Sequence[str]
) -> Iterator[QuestionRow]:
    """A row for each question of each name.

    A group's questions are those of all its tasks, also where a further name is one of them. The
    metric is the first of the first task that all have, of those that are means over questions and
    better where they are higher. Raises ValueError where there is none.

    found: what the harness returns. loaded: tasks as it takes them.
    """
    groups: Groups = found.get("group_subtasks", {})

    def measured(leaf: str) -> list[Metric]:
        return _usable(leaf, loaded["tasks"][leaf], _measured(found["results"][leaf]))

    for name in names:
        chosen = _metric(name, groups, measured)
        metric, kept = chosen
        for leaf in _leaves(name, groups):
            for sample in found["samples"][leaf]:
                if sample["filter"] == kept and metric in sample:
                    yield QuestionRow(
                        task=name,
                        metric=_shown(chosen),
                        id=f"{leaf}:{sample['doc_id']}",
                        shots=found["n-shot"].get(leaf) or 0,
                        value=_number(sample[metric], leaf, metric),
                    )


def check_groups(loaded: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises ValueError, with the mend, for a task without a metric that can be taken, and for a
    group whose tasks have none in common.

    loaded: tasks as the harness takes them.
    """

    def declared(leaf: str) -> list[Metric]:
        task = loaded["tasks"][leaf]
        return _usable(leaf, task, _declared(task))

    for name in names:
        _metric(name, loaded["group_map"], declared)


def _leaves(name: str, groups: Groups) -> Iterator[str]:
    """The tasks with questions of their own that a name stands for."""
    if not groups.get(name):
        yield name
    for child in groups.get(name, ()):
        yield from _leaves(child, groups)


def _metric(name: str, groups: Groups, metrics: Callable[[str], list[Metric]]) -> Metric:
    """The first metric of a group's first task that all its tasks have: of questions measured
    differently there is no mean. Raises ValueError where there is none."""
    first, *others = _leaves(name, groups)
    shared = metrics(first)
    for leaf in others:
        before, theirs = shared[0], metrics(leaf)
        shared = [metric for metric in shared if metric in theirs]
        if not shared:
            parts = groups[name]
            more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
            raise ValueError(
                f"capabilities.tasks: {name} has no score, for {first} is measured by "
                f"{_shown(before)} and {leaf} by {_shown(theirs[0])}; name its parts instead: "
                f"{', '.join(parts[:SHOWN])}{more}"
            )
    return shared[0]


def _declared(task: Any) -> list[Metric]:
    return [(metric, each.name) for each in task._filters for metric in task.aggregation()]


def _usable(name: str, task: Any, metrics: Sequence[Metric]) -> list[Metric]:
    """Of a task's metrics those of which a row can be made and a loss told: means over questions,
    as the harness takes all to be for which none is declared, and better where they are higher.

    Raises ValueError where there is none.
    """
    from lm_eval.api.metrics import mean

    aggregations, directions = task.aggregation(), task.higher_is_better()
    usable = [
        metric
        for metric in metrics
        if aggregations.get(metric[0], mean) is mean and directions.get(metric[0], True)
    ]
    if not usable:
        raise ValueError(
            f"capabilities.tasks: {name} is measured by "
            f"{', '.join(dict.fromkeys(map(_shown, metrics)))}, of which none is a mean over "
            "questions that is better where it is higher; choose a task of accuracy or exact match"
        )
    return usable


def _measured(results: Mapping[str, Any]) -> list[Metric]:
    """The harness writes name and filter as one key: "acc,none"."""
    keys = (key.split(",") for key in results if "," in key and "_stderr" not in key)
    return [(metric, kept) for metric, kept in keys]


def _shown(metric: Metric) -> str:
    name, kept = metric
    return name if kept == "none" else f"{name} ({kept})"


def _number(value: Any, task: str, metric: str) -> float:
    if isinstance(value, bool | int | float):
        return float(value)
    raise ValueError(
        f"capabilities.tasks: {task} is measured by {metric}, which is no mean over questions; "
        "choose a task of accuracy or exact match"
    )
