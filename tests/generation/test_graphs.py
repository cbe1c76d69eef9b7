from __future__ import annotations

import gc

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
