"""What every reward-model table is made of: rows grouped by a key, and the accuracy of a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rlhf.evaluation.preference import PairRow
from rlhf.evaluation.statistics import accuracy

SAME_QUALITY = 1e-9  # rubric sums that differ by less are equal

Table = list[dict[str, Any]]
Row = TypeVar("Row")


def cell(rows: Sequence[PairRow]) -> dict[str, Any]:
    """Pairs, accuracy and interval; the same against noise-free labels where rows know them."""
    return {**accuracy([credit(row.margin) for row in rows]), **_against_oracle(rows)}


def credit(margin: float) -> float:
    """1 for a pair told right, 0 for wrong, 0.5 when the scores tie."""
    return 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0


def grouped(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by key, those whose key is None left out."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        if (name := key(row)) is not None:
            groups[name].append(row)
    return groups


def outcomes(rows: Sequence[PairRow], *, noise_free: bool) -> list[tuple[PairRow, float]]:
    """Rows with their credits by the annotator's labels, or by noise-free ones: those that are
    known and tell the two apart."""
    if not noise_free:
        return [(row, credit(row.margin)) for row in rows]
    known = [(row, row.oracle_gap) for row in rows if row.oracle_gap is not None]
    return [
        (row, credit(row.margin if gap > 0 else -row.margin))
        for row, gap in known
        if abs(gap) > SAME_QUALITY
    ]


def _against_oracle(rows: Sequence[PairRow]) -> dict[str, Any]:
    """Against noise-free labels: the accuracy of the model, and of the annotator (the ceiling)."""
    known = sum(row.oracle_gap is not None for row in rows)
    if not known:
        return {}
    decided = outcomes(rows, noise_free=True)
    model = accuracy([found for _, found in decided])
    annotator = accuracy([float((row.oracle_gap or 0.0) > 0) for row, _ in decided])
    return {
        **{f"oracle_{key}": value for key, value in model.items()},
        "oracle_ties": known - len(decided),
        "annotator_ceiling": annotator["accuracy"],
    }
