"""Runs side by side: what they came to, and what differs between their configs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf.apps.dashboard.runs import Run
from rlhf.evaluation import compare as reward_models
from rlhf.evaluation.page import NONE, number, percent, signed

Table = list[list[str]]
"""Lines; in each a name, then a cell a run."""
LOSS = "SFT: held-out loss, nats per token"
TOLD_RIGHT = "Reward model: held-out pairs told right"
PPO = {
    "score": "PPO: score",
    "kl": "PPO: KL to the SFT model, nats per answer",
    "response_length": "PPO: answer length, tokens",
}
VERDICTS, LEAD = "PPO against SFT: win, tie, lose", "PPO against SFT: wins minus losses"
NAMES = (LOSS, TOLD_RIGHT, *PPO.values(), VERDICTS, LEAD)
PAIRS = "rm/pairs.jsonl"
UNTOLD = ("name", "output_dir")


def results(runs: Sequence[Run]) -> Table:
    """Of the last round; lines that no run has are left out."""
    columns = [_results(run) for run in runs]
    return [
        [name, *(column.get(name, NONE) for column in columns)]
        for name in NAMES
        if any(name in column for column in columns)
    ]


def reward_model_lines(runs: Sequence[Run], to: str = "to") -> tuple[list[Run], Table, bool]:
    """The runs whose reward model is tested, their measures, and whether on the same pairs.

    to: the word between the ends of an interval.
    """
    tested = [run for run in runs if run.rows(".", PAIRS)]
    if not tested:
        return [], [], True
    stamps = [(run.root, (run.root / PAIRS).stat().st_mtime_ns) for run in tested]
    found = _reward_models(tuple(stamps))
    return tested, reward_models.lines(found.table, to), found.same_pairs


def differences(runs: Sequence[Run]) -> Table:
    """The config's keys whose values are not the same in all runs."""
    flat = [_flat(run.config, own=_own(run.config)) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    return [
        [key, *(values.get(key, NONE) for values in flat)]
        for key in keys
        if key not in UNTOLD and len({values.get(key, NONE) for values in flat}) > 1
    ]


@lru_cache(maxsize=8)
def _reward_models(stamps: tuple[tuple[Path, int], ...]) -> reward_models.Comparison:
    """stamps: runs, and when their pairs were written."""
    return reward_models.compare([root for root, _ in stamps])


def _results(run: Run) -> dict[str, str]:
    found: dict[str, str] = {}
    if held_out := [row["eval_loss"] for row in run.rows("sft/main") if row.get("eval_loss")]:
        found[LOSS] = _course(held_out)
    told = [row["eval_accuracy"] for row in run.rows("rm") if row.get("eval_accuracy")]
    if told:
        found[TOLD_RIGHT] = percent(told[-1])
    rows = run.rows("ppo")
    for metric, name in PPO.items():
        if values := [row[metric] for row in rows if row.get(metric) is not None]:
            found[name] = _course(values)
    verdicts = Counter(row.get("verdict") for row in run.rows("ppo", "judge.jsonl"))
    if total := sum(verdicts.values()):
        win, tie, lose = (verdicts[name] for name in ("win", "tie", "lose"))
        found[VERDICTS] = f"{win}, {tie}, {lose}"
        found[LEAD] = signed((win - lose) / total)
    return found


def _course(values: Sequence[float]) -> str:
    """First and last twentieth's mean, as the run's own summary has them."""
    width = max(1, len(values) // 20)
    first, last = sum(values[:width]) / width, sum(values[-width:]) / width
    return f"{number(first)} → {number(last)}"


def _own(config: Mapping[str, Any]) -> str:
    """The run's own directory, as paths in its config begin with."""
    return f"{config.get('output_dir')}/{config.get('name')}/"


def _flat(section: Mapping[str, Any], own: str, before: str = "") -> dict[str, str]:
    """Values by dotted key. own: is no difference, and said in the same words for all runs."""
    found: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, own, f"{before}{key}.")
        else:
            shown = "null" if value is None else str(value)
            found[f"{before}{key}"] = shown.replace(own, "(run)/")
    return found
