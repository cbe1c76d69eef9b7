"""Reward-model tables from the rows of rm/pairs.jsonl.

An accuracy is over pairs, never a mean of batch means. Pairs of one prompt are not independent,
which Wilson's intervals ignore: `clustered` has one that does not, and says how much wider it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import fmean
from typing import Any

from rlhf.evaluation import bias, calibration
from rlhf.evaluation.cells import Table, cell, credit, grouped, outcomes
from rlhf.evaluation.preference import PairRow
from rlhf.evaluation.rankings import kendall
from rlhf.evaluation.statistics import (
    clustered_error,
    clustered_interval,
    cochran_armitage,
    surest_drop,
)

# Accuracy in percent of the Baichuan 2 reward model on its test set by grade of the gap, 1 to 5
# (arXiv 2309.10305, Table 4).
BAICHUAN2_ACCURACY = {1: 54.5, 2: 61.1, 3: 70.2, 4: 77.8, 5: 81.5}

LEVELS = ("primary", "secondary", "tertiary")


def build(rows: Sequence[PairRow], best_of_n: Table | None = None) -> dict[str, Any]:
    """All tables of one reward model.

    best_of_n: best_of_n.curve of answers sampled for it, where there are any.

    `oracle_*` is against noise-free labels, there only when rows carry `oracle_gap`; pairs of equal
    noise-free quality are counted (`oracle_ties`) and left out.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no held-out pairs: every ranking ties, or no ranking was held out")
    by_grade, by_margin = _by_grade(rows), calibration.by_quantile(rows)
    by_length, correlations = bias.by_length(rows), bias.correlations(rows)
    report = {
        **cell(rows),
        "clustered": _clustered(rows),
        "score_ties": sum(row.margin == 0 for row in rows),
        "ungraded": sum(row.grade is None for row in rows),
        "simulated": any(row.simulated for row in rows),
        "by_grade": by_grade,
        "by_margin": by_margin,
        "by_fixed_margin": calibration.by_fixed_bins(rows),
        "ece": calibration.expected_calibration_error(by_margin),
        "temperature": calibration.temperature(rows),
        "kendall": kendall(rows),
        "by_category": {level: _by_category(rows, i) for i, level in enumerate(LEVELS, start=1)},
        "by_label": _by(rows, lambda row: row.label),
        "by_language": _by(rows, lambda row: row.language),
        "by_source": _by_source(rows),
        "by_length": by_length,
        "length_balanced_accuracy": bias.length_balanced_accuracy(by_length),
        "correlations": correlations,
        "length_correlation": correlations[0]["model"],
        "refusal_shares": bias.refusal_shares(rows),
        "refusals": bias.refusals(rows),
        "trend": _trends(rows),
        "best_of_n": best_of_n or [],
    }
    return {**report, "not_given": _not_given(report, rows)}


def tables(rm: dict[str, Any]) -> dict[str, Table]:
    """The tables in build's result by the names of their files; some may be empty."""
    every_ranking = {key: rm["kendall"][key] for key in ("rankings", "tau", "ci_low", "ci_high")}
    return {
        "rm_by_grade": rm["by_grade"],
        "rm_by_margin": rm["by_margin"],
        "rm_by_fixed_margin": rm["by_fixed_margin"],
        "rm_reliability": _reliability(rm["temperature"]),
        "rm_kendall": [*rm["kendall"]["by_responses"], {"responses": "all", **every_ranking}],
        "rm_by_source": rm["by_source"],
        "rm_by_label": rm["by_label"],
        "rm_by_language": rm["by_language"],
        "rm_by_category": [
            {"level": level, **row} for level, rows in rm["by_category"].items() for row in rows
        ],
        "rm_by_length": rm["by_length"],
        "rm_correlations": rm["correlations"],
        "rm_refusals": rm["refusals"],
        "rm_best_of_n": rm["best_of_n"],
    }


def _reliability(fitted: dict[str, Any] | None) -> Table:
    """The half of the prompts that the temperature has not seen, without it and with it."""
    if not fitted:
        return []
    sides = ((1.0, fitted["before"]), (fitted["value"], fitted["after"]))
    return [{"temperature": value, **row} for value, table in sides for row in table]


def _not_given(report: dict[str, Any], rows: Sequence[PairRow]) -> list[str]:
    """What these pairs cannot answer, a sentence each: the table, and why."""
    grades = [row["grade"] for row in report["by_grade"]]
    known = {row["feature"] for row in report["correlations"]}
    placed = any(row.chosen_index is not None for row in rows)
    reasons = {
        "accuracy by grade, and its trend: no held-out pair has a grade": not grades,
        f"trend over grades: every graded pair has grade {grades[0] if grades else None}": len(
            grades
        )
        == 1,
        "trend over margin bins: nothing varies": not report["trend"].get("margin"),
        "temperature: it needs two prompts or more, pairs told wrong, and a mean margin above 0": (
            not report["temperature"]
        ),
        "length-balanced accuracy: the chosen answer is never longer, or never shorter": (
            report["length_balanced_accuracy"] is None
        ),
        "position: pairs.jsonl is of an earlier version, which did not keep it": (
            "position" not in known and not placed
        ),
        "position: the chosen answer is always the earlier one, or always the later": (
            "position" not in known and placed
        ),
        "refusals: pairs.jsonl is of an earlier version, which did not look for them": (
            "refusal" not in known
        ),
        "preference for refusals: in no pair does exactly one answer refuse": (
            "refusal" in known and not report["refusals"]
        ),
        "best of n: `rlhf evaluate best-of-n RUN` samples the answers for it": (
            not report["best_of_n"]
        ),
    }
    return [sentence for sentence, missing in reasons.items() if missing]


def _by_grade(rows: Sequence[PairRow]) -> Table:
    groups = grouped(rows, lambda row: row.grade)
    return [
        {
            "grade": grade,
            **cell(groups[grade]),
            "derived": sum(row.derived for row in groups[grade]),
            "baichuan2": BAICHUAN2_ACCURACY[grade] / 100,
        }
        for grade in sorted(groups)
    ]


def _by_category(rows: Sequence[PairRow], depth: int) -> Table:
    deep = [row for row in rows if len(row.category) >= depth]
    return _by(deep, lambda row: " / ".join(row.category[:depth]))


def _by(rows: Sequence[PairRow], key: Callable[[PairRow], str | None]) -> Table:
    groups = grouped(rows, key)
    return [{"name": name, **cell(groups[name])} for name in sorted(groups)]


def _by_source(rows: Sequence[PairRow]) -> Table:
    """By size and stage of both responses; `first_chosen`: how often annotators chose the first."""

    def sources(row: PairRow) -> tuple[str, str]:
        return f"{row.chosen_size} {row.chosen_stage}", f"{row.rejected_size} {row.rejected_stage}"

    table = []
    groups = grouped(rows, lambda row: tuple(sorted(sources(row))))
    for first, second in sorted(groups):
        group = groups[first, second]
        chosen = sum(sources(row)[0] == first for row in group) / len(group)
        share = chosen if first != second else None
        table.append({"first": first, "second": second, **cell(group), "first_chosen": share})
    return table


def _clustered(rows: Sequence[PairRow]) -> dict[str, float | None]:
    """The accuracy's interval with pairs of one prompt taken together, and how many times as large
    its standard error is as one for which all pairs are independent; None where nothing tells."""
    credits, prompts = [credit(row.margin) for row in rows], [row.prompt_id for row in rows]
    mean, low, high = clustered_interval(credits, prompts)
    error = clustered_error(credits, prompts)
    if low is None or high is None or error is None:
        return {"ci_low": None, "ci_high": None, "widening": None}
    apart = sqrt(fmean((value - mean) ** 2 for value in credits) / len(credits))
    widening = error / apart
    return {"ci_low": max(0.0, low), "ci_high": min(1.0, high), "widening": widening}


def _trends(rows: Sequence[PairRow]) -> dict[str, Any]:
    """Does accuracy rise with the grade, and over the margin bins (the dose is their number)?"""
    bins = {
        row.id: float(number)
        for number, group in enumerate(calibration.quantile_groups(rows))
        for row in group
    }
    doses = {
        "grade": {row.id: float(row.grade) for row in rows if row.grade is not None},
        "margin": bins,
    }
    trends: dict[str, Any] = {}
    for prefix in ("", "oracle_"):
        found = outcomes(rows, noise_free=bool(prefix))
        for name, dose in doses.items():
            dosed = [(row, value) for row, value in found if row.id in dose]
            if dosed:
                observed = (
                    [value for _, value in dosed],
                    [dose[row.id] for row, _ in dosed],
                    [row.prompt_id for row, _ in dosed],
                )
                trend, drop = cochran_armitage(*observed), surest_drop(*observed)
                trends[prefix + name] = trend and {**vars(trend), "drop": drop and vars(drop)}
    return trends
