from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from rlhf.ppo import batching
from rlhf.ppo.batching import epoch_orders, generator, microbatches, passes


def test_every_prompt_comes_equally_often() -> None:
    taken = Counter(i for step in range(10) for i in passes(7, 4, seed=0, index=step))
    assert set(taken) == set(range(7))
    assert set(taken.values()) <= {5, 6}


def test_prompt_order_follows_from_seed_and_iteration_alone() -> None:
    assert passes(50, 8, 1, 3) == passes(50, 8, 1, 3)
    assert passes(50, 8, 1, 3) != passes(50, 8, 2, 3)
    first_pass = [i for step in range(5) for i in passes(40, 8, 1, step)]
    second_pass = [i for step in range(5, 10) for i in passes(40, 8, 1, step)]
    assert sorted(first_pass) == sorted(second_pass) == list(range(40))
    assert first_pass != second_pass


def test_a_batch_larger_than_the_prompts_repeats_them() -> None:
    assert Counter(passes(3, 6, 0, 0)) == {0: 2, 1: 2, 2: 2}


def shuffled(rows: int, seed: int, purpose: str, number: int) -> list[int]:
    order = list(range(rows))
    random.Random(f"{seed} {purpose} {number}").shuffle(order)
    return order


@pytest.mark.parametrize(("rows", "batch"), [(7, 3), (3, 8), (1, 2), (64, 64)])
def test_batches_are_cut_off_the_passes_one_after_another(rows: int, batch: int) -> None:
    """In any order of asking, which a run that is resumed or rolled back has."""
    whole = [i for number in range(9 * batch) for i in shuffled(rows, 5, "prompts", number)]
    for index in (0, 1, 2, 8, 1, 7, 0):
        assert passes(rows, batch, 5, index) == whole[index * batch :][:batch]
    assert passes(7, 7, 5, 2, "pretraining") == shuffled(7, 5, "pretraining", 2)


def test_a_pass_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By prompts and texts in turn, whose batches end one pass and begin the next."""
    made: list[tuple[str, int]] = []
    source = batching._source
    monkeypatch.setattr(
        batching,
        "_source",
        lambda *of: made.append(of[1:]) or source(*of),  # type: ignore[func-returns-value]
    )
    batching._order.cache_clear()
    for step in range(5):
        passes(10, 4, 0, step)
        passes(10, 4, 0, step, "pretraining")
    assert made == [("prompts", 0), ("pretraining", 0), ("prompts", 1), ("pretraining", 1)]


def test_generators_differ_by_purpose_and_index() -> None:
    draws = {
        torch.rand(1, generator=generator(0, purpose, index)).item()
        for purpose in ("sampling", "minibatches")
        for index in range(3)
    }
    assert len(draws) == 6


def test_first_epoch_keeps_the_rollouts_order() -> None:
    orders = list(epoch_orders(20, 3, generator(0, "minibatches", 0)))
    assert orders[0].tolist() == list(range(20))
    assert all(sorted(order.tolist()) == list(range(20)) for order in orders)
    assert orders[1].tolist() != orders[0].tolist() != orders[2].tolist()


def of_responses(*lengths: int) -> Tensor:
    """Rows whose prompts are of no length."""
    return torch.tensor([[0, length] for length in lengths])


def test_microbatches_group_like_lengths() -> None:
    widths = of_responses(5, 1, 9, 2, 7, 1)
    groups = microbatches(widths, torch.tensor([0, 2, 3, 4, 5]), 2)
    assert [group.tolist() for group in groups] == [[5, 3], [0, 4], [2]]


def test_microbatches_by_tokens_hold_no_more_than_asked() -> None:
    widths = of_responses(5, 1, 9, 2, 7, 1)
    groups = microbatches(widths, torch.arange(6), 1, tokens=8)
    # 1 1 2 come to 3 x 2, with the 5 to 4 x 5; the 9 alone is already more than 8.
    assert [group.tolist() for group in groups] == [[1, 5, 3], [0], [4], [2]]
    (whole,) = microbatches(widths, torch.arange(6), 1, tokens=54)
    assert sorted(whole.tolist()) == list(range(6))
    assert len(microbatches(widths, torch.arange(6), 1, tokens=53)) == 2


def test_a_group_is_as_wide_as_its_widest_prompt_and_its_longest_response() -> None:
    # Each has 6 or 7 tokens; the first two side by side have 5 + 5 columns.
    widths = torch.tensor([[1, 5], [5, 1], [5, 2]])
    for tokens, groups in ((19, [[0], [1, 2]]), (20, [[0, 1], [2]]), (30, [[0, 1, 2]])):
        found = microbatches(widths, torch.arange(3), 1, tokens)
        assert [group.tolist() for group in found] == groups


def test_rows_that_are_moved_to_the_left_are_as_wide_as_the_longest() -> None:
    # The same rows of 6, 6 and 7 tokens: two side by side have 6 columns, three have 7.
    widths = torch.tensor([[6], [6], [7]])
    for tokens, groups in ((11, [[0], [1], [2]]), (12, [[0, 1], [2]]), (21, [[0, 1, 2]])):
        found = microbatches(widths, torch.arange(3), 1, tokens)
        assert [group.tolist() for group in found] == groups


def test_each_purpose_has_an_order_of_its_own() -> None:
    assert passes(50, 8, 1, 3) != passes(50, 8, 1, 3, "pretraining")
