from __future__ import annotations

import math

import pytest
import torch

from rlhf.ops.kl import estimate, response_mean

LOGPROBS = torch.log(torch.tensor([[0.5, 0.25]]))
REFERENCE = torch.log(torch.tensor([[0.25, 0.5]]))


def test_estimators_by_hand() -> None:
    log2 = math.log(2)
    expected = {
        "k1": [[log2, -log2]],
        "k2": [[log2 * log2 / 2, log2 * log2 / 2]],
        "k3": [[0.5 - 1 + log2, 2 - 1 - log2]],
    }
    for kind, value in expected.items():
        torch.testing.assert_close(estimate(LOGPROBS, REFERENCE, kind), torch.tensor(value))


def test_k1_and_k3_are_unbiased() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    true = (p * (p / q).log()).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((p * estimate(p.log(), q.log(), kind)).sum(), true)


def test_k3_keeps_its_digits_near_zero() -> None:
    difference = 1e-4
    value = estimate(torch.tensor([[difference]]), torch.zeros(1, 1), "k3").item()
    assert 0 <= value < difference  # half a square, 5e-9, is below float32's step at 1e-4
    assert estimate(torch.zeros(1, 1), torch.zeros(1, 1), "k3").item() == 0


def test_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="choose k1, k2 or k3"):
        estimate(LOGPROBS, REFERENCE, "k4")


def test_response_mean_sums_tokens_and_averages_responses() -> None:
    kl = torch.tensor([[1.0, 2.0, math.nan], [4.0, math.nan, math.nan]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert response_mean(kl, mask).item() == 3.5
