"""Do margins keep what they claim? A margin claims the accuracy sigmoid(|margin|)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from math import exp, inf, tanh
from typing import Any

from rlhf.evaluation.cells import Table, cell
from rlhf.evaluation.preference import PairRow

PAIRS_A_BIN = 80  # a margin bin of 80 pairs has a 95 % interval of about +-0.1
MOST_BINS = 10
EDGES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, inf)


def expected_accuracy(size: float) -> float:
    """What a margin of this size (>= 0) claims: sigmoid(size), Bradley-Terry's probability."""
    return 1 / (1 + exp(-size))


def by_quantile(rows: Sequence[PairRow], temperature: float = 1.0) -> Table:
    """Quantile bins of the margin's size; `expected`: the mean of sigmoid(|margin| / temperature).

    `low`, `high` and `mean_margin` are of the margins as they are.
    """
    return [
        _bin(group, min(map(_size, group)), max(map(_size, group)), temperature)
        for group in quantile_groups(rows)
    ]


def quantile_groups(rows: Sequence[PairRow]) -> Iterator[Sequence[PairRow]]:
    """Groups of about equal count in order of |margin|; equal margins stay together."""
    bins = max(2, min(MOST_BINS, len(rows) // PAIRS_A_BIN))
    ordered = sorted(rows, key=_size)
    start = 0
    for index in range(1, bins + 1):
        end = round(index * len(ordered) / bins)
        while start < end < len(ordered) and _size(ordered[end]) == _size(ordered[end - 1]):
            end += 1
        if end > start:
            yield ordered[start:end]
            start = end


def by_fixed_bins(rows: Sequence[PairRow]) -> Table:
    """Bins low <= |margin| < high with edges that are the same for every model; empty ones left
    out. `high` of the last is None: it has no upper end."""
    table = []
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        group = [row for row in rows if low <= _size(row) < high]
        if group:
            table.append(_bin(group, low, None if high == inf else high))
    return table


def expected_calibration_error(by_margin: Table) -> float:
    """Mean over pairs of |accuracy - expected| of their bin (Guo et al. 2017, section 2)."""
    pairs = sum(row["pairs"] for row in by_margin)
    gaps = (row["pairs"] * abs(row["accuracy"] - row["expected"]) for row in by_margin)
    return float(sum(gaps) / pairs)


def fit_temperature(margins: Sequence[float]) -> float | None:
    """T > 0 with the least mean of -log sigmoid(margin / T) (Guo et al. 2017, section 4.2).

    Convex in 1 / T, so that the one root of its derivative is the minimum.

    Returns:
        None when no finite T > 0 is best: no pair is told wrong, or margins are on average not
        above 0.
    """
    from scipy.optimize import brentq

    if sum(margins) <= 0 or min(margins, default=0.0) >= 0:
        return None

    def slope(inverse: float) -> float:
        return -sum(m * 0.5 * (1 - tanh(m * inverse / 2)) for m in margins)

    above = 1.0
    while slope(above) < 0:
        above *= 2
    return 1 / float(brentq(slope, 0.0, above))


def temperature(rows: Sequence[PairRow]) -> dict[str, Any] | None:
    """A temperature fitted on one half of the prompts, and its effect on the other.

    The halves are by a hash of the prompt's id: a prompt's pairs stay together, and the halves are
    the same for every model on the same pairs.

    Returns:
        `value`, `fitted_pairs`, `pairs` (of the other half), `ece_before`, `ece_after`, and the
        bins of the other half `before` and `after`. None when a half is empty or none fits.
    """
    fitted = [row for row in rows if _first_half(row)]
    others = [row for row in rows if not _first_half(row)]
    value = fit_temperature([row.margin for row in fitted])
    if value is None or not others:
        return None
    before, after = by_quantile(others), by_quantile(others, value)
    return {
        "value": value,
        "fitted_pairs": len(fitted),
        "pairs": len(others),
        "ece_before": expected_calibration_error(before),
        "ece_after": expected_calibration_error(after),
        "before": before,
        "after": after,
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


def _bin(
    group: Sequence[PairRow], low: float, high: float | None, temperature: float = 1.0
) -> dict[str, Any]:
    sizes = [_size(row) for row in group]
    return {
        "low": low,
        "high": high,
        "mean_margin": sum(sizes) / len(sizes),
        **cell(group),
        "expected": sum(expected_accuracy(size / temperature) for size in sizes) / len(sizes),
    }


def _first_half(row: PairRow) -> bool:
    return hashlib.sha256(row.prompt_id.encode()).digest()[0] % 2 == 0


def _size(row: PairRow) -> float:
    return abs(row.margin)
