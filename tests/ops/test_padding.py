from __future__ import annotations

import torch

from rlhf.ops.padding import LeftAligned, pad_left, pad_right, to_the_right


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


def test_rows_moved_to_the_left_by_hand() -> None:
    ids = torch.tensor([[1, 5, 6, 7, 1, 1], [1, 1, 8, 9, 1, 1], [2, 1, 1, 1, 1, 1]])
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    aligned = LeftAligned.of(mask)
    assert aligned is not None and aligned.moves
    assert aligned.start.tolist() == [1, 2, 0]
    assert (aligned.columns, aligned.width, aligned.furthest) == (6, 3, 2)
    moved = aligned.move(ids)
    assert moved.tolist() == [[5, 6, 7], [8, 9, 1], [2, 1, 1]]
    # Columns 2 to 5: of the second row the first one kept stood in column 2.
    assert (aligned.kept(0), aligned.kept(4), aligned.kept(3), aligned.kept(2)) == (0, 0, 2, 1)
    # Before the first real token nothing, behind the last one whatever is there.
    assert aligned.back(moved).tolist() == [
        [0, 5, 6, 7, 7, 7],
        [0, 0, 8, 9, 1, 1],
        [2, 1, 1, 1, 1, 1],
    ]
    assert torch.equal(aligned.back(moved, 100), aligned.back(moved)) and aligned.kept(100) == 0
    for keep in (2, 3, 4):
        last, kept = mask[:, -keep:].bool(), aligned.kept(keep)
        assert torch.equal(aligned.back(moved[:, -kept:], keep)[last], ids[:, -keep:][last])


def test_widths_in_multiples() -> None:
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0]])
    for multiple, width in {1: 3, 2: 4, 3: 3, 4: 4, 8: 6}.items():  # never more than there were
        aligned = LeftAligned.of(mask, multiple)
        assert aligned is not None and aligned.width == width
    aligned = LeftAligned.of(mask, 4)
    assert aligned is not None
    ids = torch.tensor([[1, 5, 6, 7, 1, 2], [1, 1, 8, 9, 1, 2]])
    assert aligned.move(ids).tolist() == [[5, 6, 7, 1], [8, 9, 1, 2]]
    for keep in (1, 2, 3, 4, 6):
        last, kept = mask[:, -keep:].bool(), aligned.kept(keep)
        back = aligned.back(aligned.move(ids)[:, -kept:], keep)
        assert torch.equal(back[last], ids[:, -keep:][last])


def test_one_row_for_all_is_moved_with_each() -> None:
    aligned = LeftAligned.of(torch.tensor([[0, 1, 1], [1, 1, 0]]))
    assert aligned is not None
    assert aligned.move(torch.arange(3)[None]).tolist() == [[1, 2], [0, 1]]
    states = torch.arange(6.0).view(1, 3, 2)
    assert aligned.move(states)[0].tolist() == [[2.0, 3.0], [4.0, 5.0]]


def test_full_rows_stay_and_holes_are_told() -> None:
    aligned = LeftAligned.of(torch.ones(2, 3))
    assert aligned is not None and not aligned.moves
    rows = torch.arange(6).view(2, 3)
    assert aligned.move(rows) is rows
    assert (aligned.kept(0), aligned.kept(2)) == (0, 2)
    assert torch.equal(aligned.back(rows), rows)
    assert torch.equal(aligned.back(rows[:, -2:], 2), rows[:, 1:])
    assert LeftAligned.of(torch.tensor([[1, 1, 1], [1, 0, 1]])) is None
    nothing = LeftAligned.of(torch.zeros(2, 3))
    assert nothing is not None and nothing.width == 1
    assert nothing.back(nothing.move(rows)).shape == rows.shape
