"""Per-token estimates of a Kullback-Leibler divergence from the tokens that were sampled."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: Estimator) -> Tensor:
    """Estimate KL(policy || reference) at every sampled token (Schulman, "Approximating KL", 2020).

    With d = logprobs - ref_logprobs: `k1` is d (unbiased, may be negative), `k2` is d * d / 2
    (biased, low variance), `k3` is exp(-d) - 1 + d (unbiased, never negative).

    Args:
        logprobs: [B, R] of the policy that sampled the tokens.
        ref_logprobs: [B, R] of the reference.
        kind: the estimator.

    Returns:
        [B, R] float32, in nats.

    Raises:
        ValueError: `kind` is none of the three.
    """
    difference = logprobs.float() - ref_logprobs.float()
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference.square() / 2
    if kind == "k3":
        # expm1 keeps the digits where the policies almost agree, as they do for most of a run.
        return torch.expm1(-difference) + difference
    raise ValueError(f"unknown KL estimator {kind!r}: choose k1, k2 or k3")


def response_mean(kl: Tensor, mask: Tensor) -> Tensor:
    """Mean over responses of the summed per-token estimates, in nats.

    Args:
        kl: [B, R] from `estimate`.
        mask: boolean [B, R].

    Returns:
        A scalar.
    """
    return torch.where(mask, kl, 0.0).sum(dim=1).mean()
