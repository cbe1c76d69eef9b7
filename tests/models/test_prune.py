from __future__ import annotations

from math import pi

import pytest
import torch

from rlhf.models.prune import angular_distances, drop_blocks
from tests.checkpoints import tiny_model

TEXTS = [torch.arange(3, 23), torch.arange(40, 52)]


@torch.no_grad()
def idle(model, *indices: int):
    """The same model with blocks that add nothing."""
    for index in indices:
        block = model.model.layers[index]
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    return model


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-13b"])
def test_blocks_that_add_nothing_go_without_a_trace(architecture: str) -> None:
    model = idle(tiny_model(architecture, num_hidden_layers=4), 1, 2)
    distances = angular_distances(model, TEXTS, 2)
    assert len(distances) == 3 and distances[1] == pytest.approx(0, abs=2e-4)
    assert min(distances[0], distances[2]) > 0.01
    small = drop_blocks(model, 1, 2)
    assert small.config.num_hidden_layers == 2 and model.config.num_hidden_layers == 4
    ids = TEXTS[0].unsqueeze(0)
    assert torch.equal(small(ids).logits, model(ids).logits)


@torch.no_grad()
def test_distance_is_the_angle_over_pi_as_a_mean_over_tokens() -> None:
    model = tiny_model("baichuan-7b", num_hidden_layers=1)
    states = []
    block = model.model.layers[0]
    block.register_forward_hook(lambda _, args, output: states.append((args[0], output)))
    for ids in TEXTS:
        model(ids.unsqueeze(0))
    angles = []
    for before, after in states:
        for x, y in zip(before[0, 1:], after[0, 1:], strict=True):
            angles.append(float(torch.arccos(x @ y / x.norm() / y.norm())) / pi)
    (distance,) = angular_distances(model, TEXTS, 1)
    assert distance == pytest.approx(sum(angles) / len(angles), abs=1e-5)


def test_nothing_to_measure_on() -> None:
    with pytest.raises(ValueError, match="two tokens"):
        angular_distances(tiny_model("baichuan-7b"), [torch.tensor([3])], 1)
