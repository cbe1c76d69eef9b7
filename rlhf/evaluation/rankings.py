"""Whole rankings instead of pairs: does the model put K responses in the annotator's order?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import isnan
from typing import Any

from rlhf.evaluation.cells import grouped
from rlhf.evaluation.preference import PairRow
from rlhf.evaluation.statistics import clustered_interval

Tau = tuple[float, str]
"""Of one ranking, and the prompt that it is of."""


def kendall(rows: Sequence[PairRow]) -> dict[str, Any]:
    """Kendall's tau-b of scores and ranks (Kendall 1945, Biometrika 33, p. 239), a mean over
    rankings, with its 95 % interval; `by_responses`: the same by K.

    Rankings of one prompt, such as several annotators', depend on each other: the interval takes
    them together, and is None for a single prompt. A ranking whose scores are all equal counts
    as 0.
    """
    taus: dict[int, list[Tau]] = defaultdict(list)
    for group in grouped(rows, lambda row: row.ranking_id).values():
        responses, tau = _tau(group)
        taus[responses].append((tau, group[0].prompt_id))
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


def _mean(taus: Sequence[Tau]) -> dict[str, Any]:
    values, prompts = [tau for tau, _ in taus], [prompt for _, prompt in taus]
    mean, low, high = clustered_interval(values, prompts)
    return {
        "rankings": len(taus),
        "tau": mean,
        "ci_low": None if low is None else max(-1.0, low),
        "ci_high": None if high is None else min(1.0, high),
    }
