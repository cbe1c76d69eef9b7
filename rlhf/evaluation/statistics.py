"""Proportions with intervals, the trend test and the correlation of the reports. Plain floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean, stdev, variance

from rlhf.ops.intervals import wilson

Z_95 = 1.959963984540054
_ROUNDING = 1e-12  # of floats that were summed, as a share of the largest


def accuracy(credits: Sequence[float]) -> dict[str, float | int | None]:
    """Accuracy over pairs with its 95 % Wilson interval; None where there is no pair.

    Args:
        credits: [N], 1 for a pair told right, 0 for wrong, 0.5 for a tie of the scores.
    """
    if not credits:
        return {"pairs": 0, "accuracy": None, "ci_low": None, "ci_high": None}
    total = sum(credits)
    low, high = wilson(total, len(credits))
    return {"pairs": len(credits), "accuracy": total / len(credits), "ci_low": low, "ci_high": high}


@dataclass(frozen=True)
class Trend:
    """z and the one-sided p value of 'the proportion rises': of Cochran and Armitage, and with what
    belongs to one cluster taken together (None with fewer than two clusters)."""

    z: float
    p_value: float
    clustered_z: float | None
    clustered_p_value: float | None


def cochran_armitage(
    credits: Sequence[float], doses: Sequence[float], clusters: Sequence[str]
) -> Trend | None:
    """Tests whether a proportion rises with an ordered dose (Armitage 1955, Biometrics 11, p. 375).

    z = r sqrt(N), r the correlation of dose and credit: Armitage's statistic, normal under 'no
    trend' where all N are independent. The clustered one needs independent clusters only: the sum
    of u = (dose - mean)(credit - mean) over the root of sum_g (sum_{i in g} u_i)^2, a generalised
    score test (Boos 1992, The American Statistician 46, p. 327).

    Args:
        credits: [N], 1 for a pair told right, 0 for wrong, 0.5 for a tie of the scores.
        doses: [N].
        clusters: [N], the name of each one's, such as a pair's prompt.

    Returns:
        None when nothing varies: fewer than two doses, or all pairs right or all wrong.
    """
    from scipy.stats import norm, pearsonr

    if len(set(doses)) < 2 or len(set(credits)) < 2:
        return None
    z = float(pearsonr(doses, credits).statistic) * sqrt(len(credits))
    dose, credit = fmean(doses), fmean(credits)
    scores: dict[str, float] = {}
    for x, t, cluster in zip(credits, doses, clusters, strict=True):
        scores[cluster] = scores.get(cluster, 0.0) + (t - dose) * (x - credit)
    if len(scores) < 2:
        return Trend(z, float(norm.sf(z)), None, None)
    spread = sqrt(sum(score**2 for score in scores.values()))
    clustered = sum(scores.values()) / spread if spread else 0.0
    return Trend(z, float(norm.sf(z)), clustered, float(norm.sf(clustered)))


@dataclass(frozen=True)
class Drop:
    """The step down between neighbouring doses that chance explains least.

    before, after: the doses; size: how far the proportion falls; p_value: one-sided, clustered, and
    Bonferroni's for as many steps as there are.
    """

    before: float
    after: float
    size: float
    p_value: float


Outcomes = list[tuple[float, str]]
"""Credits of one dose, each with its cluster."""


def surest_drop(
    credits: Sequence[float], doses: Sequence[float], clusters: Sequence[str]
) -> Drop | None:
    """Tests whether a proportion that should rise with an ordered dose falls anywhere.

    Args: as of `cochran_armitage`.

    Returns:
        None when it falls nowhere, or only between two doses that one cluster alone makes up.
    """
    groups: dict[float, Outcomes] = {}
    for credit, dose, cluster in zip(credits, doses, clusters, strict=True):
        groups.setdefault(dose, []).append((credit, cluster))
    steps = list(pairwise(sorted(groups)))
    drops = []
    for before, after in steps:
        size, p_value = _fall(groups[before], groups[after])
        if p_value is not None:
            drops.append(Drop(before, after, size, min(1.0, p_value * len(steps))))
    return min(drops, key=lambda drop: drop.p_value, default=None)


def _fall(first: Outcomes, second: Outcomes) -> tuple[float, float | None]:
    """How far the mean falls from one dose to the next, and a score test's one-sided p value: None
    where it does not fall, and for one cluster alone.

    As under 'no step', residuals are about the common mean: about its own, a group that is all
    right or all wrong, such as a single pair, has none, and any step beside it would be certain.
    The variance is the clusters', G / (G - 1) sum_g u_g^2 with u_g = sum_{i in g} +-residual / n of
    its dose, or where it is larger that of pairs dealt to the two doses at random (Fisher's exact
    test has it): few clusters that happen to agree tell too little of their own spread. The size
    counts less half of what one pair changes (Yates 1934, Journal of the Royal Statistical
    Society, Supplement 1, p. 217), which for few pairs comes close to the exact test.
    """
    from scipy.stats import norm

    mean = fmean(credit for credit, _ in first + second)
    sums: dict[str, float] = {}
    for sign, group in ((1, first), (-1, second)):
        for credit, cluster in group:
            sums[cluster] = sums.get(cluster, 0.0) + sign * (credit - mean) / len(group)
    size, one_pair = sum(sums.values()), 1 / len(first) + 1 / len(second)
    if size <= 0 or len(sums) < 2:
        return size, None
    clustered = len(sums) / (len(sums) - 1) * sum(value**2 for value in sums.values())
    dealt = one_pair * variance([credit for credit, _ in first + second], mean)
    return size, float(norm.sf((size - one_pair / 2) / sqrt(max(clustered, dealt))))


def correlation_through_origin(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Correlation of differences: sum xy / sqrt(sum x^2 sum y^2), None when one side is all zero.

    Not centred, so that it does not depend on which response of a pair is subtracted from which.

    Args:
        x, y: [N] differences within a pair.
    """
    norm = sqrt(sum(a * a for a in x) * sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / norm if norm > 0 else None


def net_win_interval(win: int, tie: int, lose: int) -> tuple[float, float]:
    """95 % interval of (win - lose) / N for verdicts on the same prompts.

    Agresti and Min 2005 (Statistics in Medicine 24, p. 729): half a count is added to each cell of
    the matched table, which keeps the interval honest when one of the counts is 0.
    """
    count = win + tie + lose + 2
    difference = (win - lose) / count
    half = Z_95 * sqrt(max(0.0, (win + lose + 1) / count - difference**2) / count)
    return max(-1.0, difference - half), min(1.0, difference + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of independent values with its 95 % interval by Student's t (1908, Biometrika 6, p. 1).

    Args:
        values: [N], two or more, such as one a seed.
    """
    from scipy.stats import t

    mean, count = fmean(values), len(values)
    half = float(t.ppf(0.975, count - 1)) * stdev(values) / sqrt(count)
    return mean, mean - half, mean + half


def clustered_error(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """Standard error of the mean of values that depend on each other within a cluster.

    The variance is that of the clusters' sums of residuals, G / (G - 1) sum_g u_g^2 / N^2 with
    u_g = sum_{i in g} (x_i - mean) (Cameron and Miller 2015, Journal of Human Resources 50, p. 317,
    for a constant alone).

    Args:
        values: [N]; clusters: [N], the name of each value's, such as a pair's prompt.

    Returns:
        None where nothing tells of the spread: one cluster alone, or clusters that do not differ.
    """
    mean = fmean(values)
    residuals: dict[str, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] = residuals.get(cluster, 0.0) + value - mean
    count = len(residuals)
    if count < 2:
        return None
    spread = count / (count - 1) * sum(residual**2 for residual in residuals.values())
    error = sqrt(spread) / len(values)
    return error if error > _ROUNDING * max(map(abs, values)) else None


def clustered_interval(
    values: Sequence[float], clusters: Sequence[str]
) -> tuple[float, float | None, float | None]:
    """Mean of values that depend on each other within a cluster, with its 95 % interval.

    By Student's t with G - 1 degrees of freedom for G clusters (Cameron and Miller 2015, section
    VI.D). No interval where there is no `clustered_error`, whose arguments these are.
    """
    from scipy.stats import t

    mean, error = fmean(values), clustered_error(values, clusters)
    if error is None:
        return mean, None, None
    half = float(t.ppf(0.975, len(set(clusters)) - 1)) * error
    return mean, mean - half, mean + half
