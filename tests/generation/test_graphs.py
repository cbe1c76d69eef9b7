from __future__ import annotations

import gc
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch

from rlhf.generation.graphs import captured, look


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_look_is_at_what_was_there(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    values = torch.tensor([1, 2, 3], device=device)
    seen = look(values)
    values += 1
    assert seen() == [1, 2, 3] and look(values)() == [2, 3, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are of a GPU")
def test_a_step_is_tried_once_and_then_replayed() -> None:
    count, tried = torch.zeros(1, device="cuda"), []
    advance = captured(lambda: tried.append(1), lambda: count.add_(1), count.device)
    assert not tried
    for _ in range(3):
        advance()
    assert count.item() == 3 and len(tried) == 1 and gc.isenabled()


def test_a_capture_that_fails_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or nothing that follows would work on that device. A stand-in for CUDA says what is done."""
    done = []

    class Graph:
        def __getattr__(self, name: str) -> object:
            return lambda: done.append(name)

    def step() -> None:
        raise torch.OutOfMemoryError("in the step")

    stand_ins = {
        "CUDAGraph": Graph,
        "Stream": Mock(),
        "current_stream": Mock(),
        "stream": lambda aside: nullcontext(),
        "mem_get_info": lambda device: (8, 10),
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    advance = captured(lambda: done.append("tried"), step, torch.device("cuda"))
    with pytest.raises(torch.OutOfMemoryError):
        advance()
    assert done == ["tried", "capture_begin", "capture_end"] and gc.isenabled()
