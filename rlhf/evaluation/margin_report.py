"""Reward-model tables from the rows of rm/pairs.jsonl.

An accuracy is over pairs, never a mean of batch means. Pairs of one prompt are not independent,
which the intervals ignore: they are a little too narrow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import exp
from typing import Any

from rlhf.evaluation.preference import PairRow
from rlhf.evaluation.statistics import accuracy, cochran_armitage, correlation_through_origin

# Accuracy in percent of the Baichuan 2 reward model on its test set by grade of the gap, 1 to 5
# (arXiv 2309.10305, Table 4).
BAICHUAN2_ACCURACY = {1: 54.5, 2: 61.1, 3: 70.2, 4: 77.8, 5: 81.5}

LEVELS = ("primary", "secondary", "tertiary")
PAIRS_A_BIN = 80  # a margin bin of 80 pairs has a 95 % interval of about +-0.1
MOST_BINS = 10
SAME_QUALITY = 1e-9  # rubric sums that differ by less are equal

Table = list[dict[str, Any]]


def build(rows: Sequence[PairRow]) -> dict[str, Any]:
    """All tables of one reward model.

    `oracle_*` is against noise-free labels, there only when rows carry `oracle_gap`; pairs of equal
    noise-free quality are counted (`oracle_ties`) and left out.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no held-out pairs: every ranking ties, or no ranking was held out")
    by_grade, by_margin = _by_grade(rows), _by_margin(rows)
    return {
        **_cell(rows),
        "score_ties": sum(row.margin == 0 for row in rows),
        "ungraded": sum(row.grade is None for row in rows),
        "simulated": any(row.simulated for row in rows),
        "by_grade": by_grade,
        "by_margin": by_margin,
        "ece": expected_calibration_error(by_margin),
        "by_category": {level: _by_category(rows, i) for i, level in enumerate(LEVELS, start=1)},
        "by_label": _by(rows, lambda row: row.label),
        "by_language": _by(rows, lambda row: row.language),
        "by_source": _by_source(rows),
        "trend": _trends(by_grade, by_margin),
        **_length(rows),
    }


def margin_histogram(rows: Sequence[PairRow], bins: int = 24) -> Table:
    """Counts of signed margins in equal bins; a negative margin is a pair told wrong."""
    low, high = min(row.margin for row in rows), max(row.margin for row in rows)
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for row in rows:
        counts[min(bins - 1, int((row.margin - low) / width))] += 1
    return [
        {"low": low + i * width, "high": low + (i + 1) * width, "pairs": count}
        for i, count in enumerate(counts)
    ]


def expected_accuracy(size: float) -> float:
    """What a margin of this size (>= 0) claims: sigmoid(size), Bradley-Terry's probability."""
    return 1 / (1 + exp(-size))


def expected_calibration_error(by_margin: Table) -> float:
    """Mean over pairs of |accuracy - expected| of their bin (Guo et al. 2017, section 2)."""
    pairs = sum(row["pairs"] for row in by_margin)
    gaps = (row["pairs"] * abs(row["accuracy"] - row["expected"]) for row in by_margin)
    return float(sum(gaps) / pairs)


def credit(margin: float) -> float:
    """1 for a pair told right, 0 for wrong, 0.5 when the scores tie."""
    return 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0


def _cell(rows: Sequence[PairRow]) -> dict[str, Any]:
    return {**accuracy([credit(row.margin) for row in rows]), **_against_oracle(rows)}


def _against_oracle(rows: Sequence[PairRow]) -> dict[str, Any]:
    """Against noise-free labels: the accuracy of the model, and of the annotator (the ceiling)."""
    known = [(row, row.oracle_gap) for row in rows if row.oracle_gap is not None]
    if not known:
        return {}
    decided = [(row, gap) for row, gap in known if abs(gap) > SAME_QUALITY]
    model = accuracy([credit(row.margin if gap > 0 else -row.margin) for row, gap in decided])
    annotator = accuracy([float(gap > 0) for _, gap in decided])
    return {
        **{f"oracle_{key}": value for key, value in model.items()},
        "oracle_ties": len(known) - len(decided),
        "annotator_ceiling": annotator["accuracy"],
    }


def _by_grade(rows: Sequence[PairRow]) -> Table:
    groups = _grouped(rows, lambda row: row.grade)
    return [
        {
            "grade": grade,
            **_cell(groups[grade]),
            "derived": sum(row.derived for row in groups[grade]),
            "baichuan2": BAICHUAN2_ACCURACY[grade] / 100,
        }
        for grade in sorted(groups)
    ]


def _by_margin(rows: Sequence[PairRow]) -> Table:
    """Quantile bins of the margin's size; `expected` is the bin's mean of sigmoid(|margin|)."""
    table = []
    for group in _quantile_groups(rows, max(2, min(MOST_BINS, len(rows) // PAIRS_A_BIN))):
        sizes = [_size(row) for row in group]
        expected = sum(expected_accuracy(size) for size in sizes) / len(sizes)
        table.append(
            {
                "low": min(sizes),
                "high": max(sizes),
                "mean_margin": sum(sizes) / len(sizes),
                **_cell(group),
                "expected": expected,
            }
        )
    return table


def _quantile_groups(rows: Sequence[PairRow], bins: int) -> Iterable[Sequence[PairRow]]:
    """Groups of about equal count in order of |margin|; equal margins stay together."""
    ordered = sorted(rows, key=_size)
    start = 0
    for index in range(1, bins + 1):
        end = round(index * len(ordered) / bins)
        while start < end < len(ordered) and _size(ordered[end]) == _size(ordered[end - 1]):
            end += 1
        if end > start:
            yield ordered[start:end]
            start = end


def _size(row: PairRow) -> float:
    return abs(row.margin)


def _by_category(rows: Sequence[PairRow], depth: int) -> Table:
    deep = [row for row in rows if len(row.category) >= depth]
    return _by(deep, lambda row: " / ".join(row.category[:depth]))


def _by(rows: Sequence[PairRow], key: Callable[[PairRow], str | None]) -> Table:
    groups = _grouped(rows, key)
    return [{"name": name, **_cell(groups[name])} for name in sorted(groups)]


def _by_source(rows: Sequence[PairRow]) -> Table:
    """By size and stage of both responses; `first_chosen`: how often annotators chose the first."""

    def sources(row: PairRow) -> tuple[str, str]:
        return f"{row.chosen_size} {row.chosen_stage}", f"{row.rejected_size} {row.rejected_stage}"

    table = []
    groups = _grouped(rows, lambda row: tuple(sorted(sources(row))))
    for first, second in sorted(groups):
        group = groups[first, second]
        chosen = sum(sources(row)[0] == first for row in group) / len(group)
        share = chosen if first != second else None
        table.append({"first": first, "second": second, **_cell(group), "first_chosen": share})
    return table


def _trends(by_grade: Table, by_margin: Table) -> dict[str, Any]:
    """Does accuracy rise with the grade, and over the margin bins (the dose is their number)?"""
    grades = [float(row["grade"]) for row in by_grade]
    numbers = [float(index) for index in range(len(by_margin))]
    trends = {}
    for name, table, doses in (("grade", by_grade, grades), ("margin", by_margin, numbers)):
        for prefix in ("", "oracle_"):
            if table and f"{prefix}pairs" in table[0]:
                totals = [row[f"{prefix}pairs"] for row in table]
                right = [row[f"{prefix}pairs"] * (row[f"{prefix}accuracy"] or 0.0) for row in table]
                result = cochran_armitage(right, totals, doses)
                trends[prefix + name] = vars(result) if result else None
    return trends


def _length(rows: Sequence[PairRow]) -> dict[str, float | None]:
    """Does the longer answer score higher? Do annotators, and the oracle, like it better?"""

    def correlation(pairs: Sequence[tuple[float, PairRow]]) -> float | None:
        longer = [row.chosen_length - row.rejected_length for _, row in pairs]
        return correlation_through_origin([liking for liking, _ in pairs], longer)

    return {
        "length_correlation": correlation([(row.margin, row) for row in rows]),
        "length_correlation_annotator": correlation([(1.0, row) for row in rows]),
        "length_correlation_oracle": correlation(
            [(row.oracle_gap, row) for row in rows if row.oracle_gap is not None]
        ),
    }


def _grouped(rows: Sequence[PairRow], key: Callable[[PairRow], Any]) -> dict[Any, list[PairRow]]:
    groups: dict[Any, list[PairRow]] = defaultdict(list)
    for row in rows:
        if (name := key(row)) is not None:
            groups[name].append(row)
    return groups
