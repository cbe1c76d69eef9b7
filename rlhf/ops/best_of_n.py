"""What choosing the best of n responses gains, on plain floats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import comb, log


def best_of_n(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    """Expected value of the response that scores highest among n, drawn from N without replacement.

    The unbiased estimator of Nakano et al. 2021 (arXiv 2112.09332, appendix I): the response with
    i - 1 lower scores is the best of C(i - 1, n - 1) of the C(N, n) draws. Responses with the same
    score share their draws.

    Args:
        scores: [N] what to choose by. values: [N] what to be told of the chosen one; the scores
            themselves give the expected highest score.
        n: how many are drawn, 1 to N.
    """
    assert 1 <= n <= len(scores), f"{n} of {len(scores)}"
    draws = comb(len(scores), n)
    ranked = sorted(zip(scores, values, strict=True), key=lambda pair: pair[0])
    expected, lower = 0.0, 0
    for _, tied in groupby(ranked, key=lambda pair: pair[0]):
        group = [value for _, value in tied]
        below, lower = lower, lower + len(group)
        share = (comb(lower, n) - comb(below, n)) / draws
        expected += share * sum(group) / len(group)
    return expected


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n: how far, in nats, choosing the best of n goes from the policy.

    Stiennon et al. 2020 (arXiv 2009.01325, appendix G.3). Exact where no two responses are the same
    or tie; an upper bound otherwise (Beirami et al. 2024, arXiv 2401.01879).
    """
    return log(n) - (n - 1) / n
