"""Whole rankings instead of pairs: does the model put K responses in the annotator's order?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import isnan
from statistics import fmean, stdev
from typing import Any

from rlhf.evaluation.cells import grouped
from rlhf.evaluation.preference import PairRow
from rlhf.evaluation.statistics import Z_95


def kendall(rows: Sequence[PairRow]) -> dict[str, Any]:
    """Kendall's tau-b of scores and ranks (Kendall 1945, Biometrika 33, p. 239), a mean over
    rankings, with its 95 % interval; `by_responses`: the same by K.

    Rankings, unlike pairs of one ranking, are independent: the interval is not too narrow. It is
    None for a single ranking. A ranking whose scores are all equal counts as 0.
    """
    taus: dict[int, list[float]] = defaultdict(list)
    for group in grouped(rows, lambda row: row.ranking_id).values():
        responses, tau = _tau(group)
        taus[responses].append(tau)
    return {
        **_mean([tau for group in taus.values() for tau in group]),
        "by_responses": [{"responses": k, **_mean(taus[k])} for k in sorted(taus)],
    }


def _tau(group: Sequence[PairRow]) -> tuple[int, float]:
    """K and tau-b. A response's rank is the number of those that were preferred to it."""
    from scipy.stats import kendalltau

    preferred = Counter(row.rejected_id for row in group)
    scores = {row.chosen_id: row.chosen_score for row in group}
    scores |= {row.rejected_id: row.rejected_score for row in group}
    tau = kendalltau([-preferred[name] for name in scores], list(scores.values())).statistic
    return len(scores), 0.0 if isnan(tau) else float(tau)


def _mean(taus: Sequence[float]) -> dict[str, Any]:
    mean = fmean(taus)
    half = Z_95 * stdev(taus) / len(taus) ** 0.5 if len(taus) > 1 else None
    return {
        "rankings": len(taus),
        "tau": mean,
        "ci_low": None if half is None else max(-1.0, mean - half),
        "ci_high": None if half is None else min(1.0, mean + half),
    }
