"""Win rates with the judge's liking for long answers taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit

from rlhf.evaluation.statistics import Z_95

PRIOR_DEVIATION = 10.0
"""Of both coefficients: weak, but without it a policy that always wins has no finite fit."""
FARTHEST = 5 * PRIOR_DEVIATION


@dataclass(frozen=True)
class LengthControlled:
    """rate: the win rate at equal lengths, with its 95 % interval. slope: the log-odds that one
    more unit of tanh(length difference / its deviation) gains the longer answer.
    """

    rate: float
    low: float
    high: float
    slope: float


def length_controlled(wins: Sequence[float], differences: Sequence[float]) -> LengthControlled:
    """AlpacaEval 2's win rate (Dubois et al. 2024, arXiv 2404.04475, equation 2), for one pair of
    policies: logit P(win) = theta + phi tanh(difference / its standard deviation), at phi = 0.

    Their third term, the difficulty of each instruction, is fitted over many models and left out.
    The interval is the profile likelihood's, which unlike Wald's is of use near 0 and 1.

    Args:
        wins: [N] of the policy: 1, 0.5 for a tie, 0.
        differences: [N] length of the policy's answer less that of the baseline's.
    """
    won, gaps = np.asarray(wins, dtype=float), np.asarray(differences, dtype=float)
    longer = np.tanh(gaps / (gaps.std() or 1.0))

    def loss(theta: float, phi: float) -> float:
        """Negative log-likelihood, with the prior's share."""
        odds = theta + phi * longer
        prior = (theta**2 + phi**2) / (2 * PRIOR_DEVIATION**2)
        return float(np.logaddexp(0.0, odds).sum() - won @ odds + prior)

    best = minimize(lambda weights: loss(*weights), np.zeros(2))
    theta, phi = map(float, best.x)

    def excess(bound: float) -> float:
        """Below 0 inside the interval."""
        profile = minimize_scalar(lambda slope: loss(bound, slope), bracket=(phi - 1, phi + 1)).fun
        return float(profile - best.fun - Z_95**2 / 2)

    low, high = (brentq(excess, theta, theta + far) for far in (-FARTHEST, FARTHEST))
    return LengthControlled(float(expit(theta)), float(expit(low)), float(expit(high)), phi)
