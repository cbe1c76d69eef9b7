from __future__ import annotations

import pytest
import torch

from rlhf.ops.correlation import pearson


def test_pearson_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert pearson(x, 5 - 2 * x).item() == pytest.approx(-1.0)
    # deviations -1 0 1 and 0 -1 1: product 1, lengths sqrt(2) each
    assert pearson(x, torch.tensor([2, 1, 3])).item() == pytest.approx(0.5)


def test_what_does_not_vary_correlates_with_nothing() -> None:
    assert pearson(torch.ones(3), torch.tensor([1.0, 2.0, 3.0])).item() == 0.0
