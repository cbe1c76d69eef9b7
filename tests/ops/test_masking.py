from __future__ import annotations

import math

import torch

from rlhf.ops.masking import is_last, last_index, masked_mean, masked_sum, masked_whiten, positions

X = torch.tensor([[1.0, 2.0, math.nan], [6.0, math.inf, math.nan]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_sum_and_mean_of_kept_entries() -> None:
    assert masked_sum(X, MASK).item() == 9.0
    assert masked_mean(X, MASK).item() == 3.0


def test_mean_of_nothing_is_zero_with_a_gradient() -> None:
    x = torch.ones(1, 2, requires_grad=True)
    mean = masked_mean(x, torch.zeros(1, 2, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0.0
    assert x.grad is not None and x.grad.tolist() == [[0.0, 0.0]]


def test_nan_in_padding_does_not_reach_the_gradient() -> None:
    x = X.clone().requires_grad_()
    masked_mean(x, MASK).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, MASK.float() / 3)


def test_half_precision_is_averaged_in_float32() -> None:
    x = torch.full((1, 4096), 0.1, dtype=torch.bfloat16)
    mean = masked_mean(x, torch.ones_like(x, dtype=torch.bool))
    assert mean.dtype == torch.float32
    assert abs(mean.item() - x[0, 0].item()) < 1e-6


def test_whiten_by_hand() -> None:
    # kept 1, 2, 6: mean 3, population variance (4 + 1 + 9) / 3
    deviation = math.sqrt(14 / 3)
    expected = torch.tensor([[-2 / deviation, -1 / deviation, 0], [3 / deviation, 0, 0]])
    torch.testing.assert_close(masked_whiten(X, MASK), expected)


def test_whiten_equal_entries_gives_zero() -> None:
    assert masked_whiten(torch.full((2, 2), 5.0), torch.ones(2, 2, dtype=torch.bool)).sum() == 0


def test_last_index_for_either_padding_a_gap_and_an_empty_row() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    assert last_index(mask).tolist() == [1, 3, 2, -1]
    assert is_last(mask).int().tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_is_last_marks_one_kept_entry_a_row() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0]]).bool()
    expected = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()
    assert torch.equal(is_last(mask), expected)


def test_positions_for_either_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]]).bool()
    assert positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2], [0, 0, 0, 0]]
