"""Rows of a step in microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from torch.utils.data._utils.pin_memory import pin_memory
from transformers import TrainerState

from rlhf.training import batches
from rlhf.training.batches import EachOnce, Rows

CPU = torch.device("cpu")


class Plain:
    """What the Trainer does with the microbatches of a step."""

    def get_batch_samples(self, iterator: Any, count: int, device: Any) -> tuple[list[Any], None]:
        return [next(iterator) for _ in range(count)], None


class Trainer(EachOnce, Plain):
    """A Trainer over rows that are lists of ids."""

    def __init__(self, rows: int, at_once: int, *, last: bool = False) -> None:
        self.state = TrainerState()
        self.train_dataset = range(rows)
        self.args = SimpleNamespace(per_device_train_batch_size=at_once)
        state = SimpleNamespace(end_of_dataloader=last)
        self.accelerator = SimpleNamespace(gradient_state=state)
        self.data_collator = lambda rows: {"rows": list(rows), "learns": True}

    def length(self, row: list[int]) -> int:
        return len(row)

    def unlearn(self, batch: dict[str, Any]) -> None:
        batch["learns"] = False

    def tokens(self, rows: Sequence[Any], batch: dict[str, Any]) -> int:
        return sum(map(len, batch["rows"]))


def row(length: int) -> list[int]:
    return [7] * length


def loaded(*microbatches: list[list[int]]) -> list[Rows]:
    return [Rows(rows) for rows in microbatches]


def test_what_pins_and_sends_does_not_look_into_rows() -> None:
    rows = Rows([row(3)])
    assert send_to_device(rows, CPU) is rows
    assert pin_memory(rows, "cpu") is rows  # type: ignore[no-untyped-call]


def test_rows_of_a_step_are_dealt_out_by_length() -> None:
    trainer = Trainer(7, 2)
    step = loaded([row(1), row(9)], [row(2), row(8)], [row(3)])
    found, _ = trainer.get_batch_samples(iter(step), 3, CPU)
    assert [[len(r) for r in batch["rows"]] for batch in found] == [[9, 8], [3, 2], [1]]
    assert trainer.state.num_input_tokens_seen == 23


def test_a_step_takes_no_row_of_the_next() -> None:
    trainer, later = Trainer(8, 2), loaded([row(5), row(5)])
    iterator = iter([*loaded([row(1), row(9)], [row(2), row(8)]), *later])
    found, _ = trainer.get_batch_samples(iterator, 2, CPU)
    assert [[len(r) for r in batch["rows"]] for batch in found] == [[9, 8], [2, 1]]
    assert list(iterator) == later


def test_one_microbatch_stays_as_it_came() -> None:
    found, _ = Trainer(3, 3).get_batch_samples(iter(loaded([row(1), row(3), row(2)])), 1, CPU)
    assert [len(r) for r in found[0]["rows"]] == [1, 3, 2]


@pytest.mark.parametrize(
    ("rank", "expected", "tokens"), [(0, [[2, 1]], 3), (1, [[9]], 9), (2, [[4]], 0)]
)
def test_rows_that_fill_up_teach_nothing(
    monkeypatch: pytest.MonkeyPatch, rank: int, expected: list[list[int]], tokens: int
) -> None:
    """Three rows for three processes that take two each: the last has none of its own."""
    monkeypatch.setattr(batches, "world_size", lambda: 3)
    monkeypatch.setattr(batches, "rank", lambda: rank)
    monkeypatch.setattr(batches, "gather", lambda value: [value])
    mine = {0: [row(2), row(1)], 1: [row(9), row(2)], 2: [row(4), row(2)]}[rank]
    trainer = Trainer(3, 2, last=True)
    found, _ = trainer.get_batch_samples(iter(loaded(mine)), 1, CPU)
    assert [[len(r) for r in batch["rows"]] for batch in found] == expected
    assert [batch["learns"] for batch in found] == [rank < 2]
    assert trainer.state.num_input_tokens_seen == tokens
