"""Confidence intervals of proportions, on plain floats."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson(successes: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion, two-sided (Wilson 1927, JASA 22, p. 209).

    Args:
        successes: number of successes, 0 to `total`; halves allowed (a tie counts as half).
        total: number of trials; 0 knows nothing and gives (0, 1).
        confidence: probability that the interval covers the true proportion, between 0 and 1.

    Returns:
        (low, high) in [0, 1], with the rate itself between them to the last bit.
    """
    assert 0 <= successes <= total, f"{successes} successes of {total}"
    assert 0 < confidence < 1, f"confidence {confidence}"
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / total
    scale = 1 / (1 + z * z / total)
    centre = scale * (rate + z * z / (2 * total))
    half = scale * z * sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
