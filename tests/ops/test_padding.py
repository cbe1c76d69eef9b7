from __future__ import annotations

import torch

from rlhf.ops.padding import pad_left, pad_right, to_the_right


def test_right_by_hand() -> None:
    ids, mask = pad_right([[5, 6, 7], [8], []], 1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1], [1, 1, 1]]
    assert mask.tolist() == [[True, True, True], [True, False, False], [False, False, False]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_left_by_hand() -> None:
    ids, mask = pad_left([[5, 6, 7], (8, 9)], 1)
    assert ids.tolist() == [[5, 6, 7], [1, 8, 9]]
    assert mask.tolist() == [[True, True, True], [False, True, True]]


def test_to_the_right_by_hand() -> None:
    """From padding on the right, on both sides, on the left, and from none."""
    ids = torch.tensor([[5, 6, 1], [1, 7, 1], [1, 8, 9], [2, 3, 4]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]])
    for kept in (mask, mask.bool()):
        moved, where = to_the_right(ids, kept)
        assert moved.tolist() == [[1, 5, 6], [1, 1, 7], [1, 8, 9], [2, 3, 4]]
        assert where.int().tolist() == [[0, 1, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1]]
        assert where.dtype == kept.dtype


def test_what_looks_like_padding_is_kept() -> None:
    """The mask comes from the lengths: a token may be the padding's own."""
    assert pad_right([[1, 1], [1]], 1)[1].tolist() == [[True, True], [True, False]]
    assert pad_left([[1, 1], [1]], 1)[1].tolist() == [[True, True], [False, True]]


def test_other_kinds_of_rows() -> None:
    values, mask = pad_right([[-0.5], [-1.0, -2.5]], 0.0, dtype=torch.float32)
    assert values.dtype == torch.float32 and values.tolist() == [[-0.5, 0.0], [-1.0, -2.5]]
    assert mask.tolist() == [[True, False], [True, True]]


def test_only_empty_rows() -> None:
    ids, mask = pad_right([[], []], 0)
    assert ids.shape == mask.shape == (2, 0)


def test_device() -> None:
    ids, mask = pad_left([[5], [6, 7]], 0, device=torch.device("cpu"))
    assert ids.device == mask.device == torch.device("cpu")
