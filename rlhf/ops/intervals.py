"""Confidence intervals of proportions, on plain floats."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson(
    successes: float, total: float, confidence: float = 0.95, population: int | None = None
) -> tuple[float, float]:
    """Wilson score interval of a proportion, two-sided (Wilson 1927, JASA 22, p. 209).

    Of n drawn without replacement from a population of N, a proportion P has the variance
    P (1 - P) / n * (N - n) / (N - 1) (Cochran 1977, Sampling Techniques, theorem 3.2): as of
    n (N - 1) / (N - n) independent trials, which stand in Wilson's formula for n. With all N drawn
    nothing is left open.

    Args:
        successes: number of successes, 0 to `total`; halves allowed (a tie counts as half).
        total: number of trials, such as an effective one; 0 knows nothing and gives (0, 1).
        population: what the trials were drawn from; None for one without end.
        confidence: probability that the interval covers the true proportion, between 0 and 1.

    Returns:
        (low, high) in [0, 1], with the rate itself between them to the last bit.
    """
    assert 0 <= successes <= total, f"{successes} successes of {total}"
    assert 0 < confidence < 1, f"confidence {confidence}"
    assert population is None or total <= population, f"{total} of {population}"
    if total == 0:
        return 0.0, 1.0
    if total == population:
        return successes / total, successes / total
    trials = total if population is None else total * (population - 1) / (population - total)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / total
    scale = 1 / (1 + z * z / trials)
    centre = scale * (rate + z * z / (2 * trials))
    half = scale * z * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
