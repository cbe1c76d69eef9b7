from __future__ import annotations

import pytest
import torch

from rlhf.models.recompute import recompute_blocks
from tests.checkpoints import tiny_model


def test_so_many_blocks_run_twice_and_gradients_stay() -> None:
    model = tiny_model("baichuan2-7b").train()
    ids = torch.arange(3, 15).view(1, 12)
    calls: list[int] = []
    for index, block in enumerate(model.model.layers):
        block.mlp.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    gradients = []
    for count in (0, 1, len(model.model.layers)):
        model.zero_grad()
        calls.clear()
        recompute_blocks(model, count)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        assert len(calls) == len(model.model.layers) + count
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two)


def test_there_are_not_so_many() -> None:
    with pytest.raises(ValueError, match="at most"):
        recompute_blocks(tiny_model("baichuan2-7b"), 99)
