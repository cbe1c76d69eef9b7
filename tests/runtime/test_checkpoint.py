from __future__ import annotations

import math
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlhf.runtime import checkpoint


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure, order and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = a.contiguous().view(torch.uint8) if a.dim() else a.reshape(1).view(torch.uint8)
        others = b.contiguous().view(torch.uint8) if b.dim() else b.reshape(1).view(torch.uint8)
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits, others)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def round_trip(tmp_path: Path, state: dict[str, Any]) -> dict[str, Any]:
    return checkpoint.load(checkpoint.save(tmp_path, 1, state))


def test_every_kind_of_value_comes_back_exactly(tmp_path):
    state = {
        "float": torch.tensor([0.1, -0.0, float("nan"), float("inf"), 1e-45]),
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 4),
        "bits": torch.tensor([True, False]),
        "transposed": torch.arange(6).reshape(2, 3).T,
        "numbers": (0.1, 2**70, -1e-300, float("nan"), True, None, "文字"),
        "nested": {0: {"a": [torch.ones(2), (1, [])]}, "0": {}, -3: "x"},
    }
    assert same(round_trip(tmp_path, state), state)


def test_tied_weights_and_views(tmp_path):
    weight = torch.randn(4, 4)
    state = {"a": weight, "b": weight, "row": weight[1], "parameter": nn.Parameter(weight)}
    loaded = round_trip(tmp_path, state)
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_what_lies_in_memory_by_itself_is_not_copied_to_be_saved(tmp_path, monkeypatch):
    """The state of a large model takes its size in the host's memory once."""
    handed = []

    def keep(tensors, path):
        handed.append(tensors)
        path.touch()

    monkeypatch.setattr(checkpoint, "save_file", keep)
    whole = torch.randn(4, 4)
    state = {"whole": whole, "tied": whole, "view": torch.randn(8)[:4], "turned": whole.t()}
    checkpoint._write(tmp_path / "step", state)
    own, *copied = handed[0].values()
    assert own.data_ptr() == whole.data_ptr()
    for tensor, given in zip(copied, list(state.values())[1:], strict=True):
        assert torch.equal(tensor, given) and tensor.data_ptr() != given.data_ptr()


def test_training_goes_on_as_if_uninterrupted(tmp_path):
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def steps(model: nn.Module, optimiser: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            scale = random.random() + np.random.rand()
            optimiser.zero_grad()
            (model(torch.randn(16, 4)) * scale).square().mean().backward()
            optimiser.step()

    straight, optimiser = make()
    random.seed(1)
    np.random.seed(1)
    steps(straight, optimiser, 3)
    state = {
        "model": straight.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rng": checkpoint.rng_state(),
    }
    checkpoint.save(tmp_path, 3, state)
    steps(straight, optimiser, 3)

    resumed, optimiser = make()
    loaded = checkpoint.load(checkpoint.latest(tmp_path))
    resumed.load_state_dict(loaded["model"])
    optimiser.load_state_dict(loaded["optimiser"])
    checkpoint.set_rng_state(loaded["rng"])
    steps(resumed, optimiser, 3)
    assert same(dict(resumed.state_dict()), dict(straight.state_dict()))


def test_keeps_the_newest(tmp_path):
    for step in (5, 10, 100, 1_000_000, 2_000_000):
        checkpoint.save(tmp_path, step, {"step": step}, keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-1000000", "step-2000000"]
    newest = checkpoint.latest(tmp_path)
    assert checkpoint.step_of(newest) == 2_000_000
    assert checkpoint.load(newest) == {"step": 2_000_000}


def test_the_spared_one_stays_and_can_be_returned_to(tmp_path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, {"step": step}, keep=1, spare=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000005"]
    assert checkpoint.load(checkpoint.return_to(tmp_path, 2)) == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": 1}, keep=1)
    assert checkpoint.load(checkpoint.save(tmp_path, 1, {"x": 2}, keep=1)) == {"x": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_the_only_one_survives_a_death_while_it_is_replaced(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"x": 1}, keep=1)
    rename = Path.rename

    def dies(self: Path, target: Path) -> Path:
        if Path(target).name == "step-000001":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", dies)
        checkpoint.save(tmp_path, 1, {"x": 2}, keep=1)
    assert not (tmp_path / "step-000001").exists()
    assert checkpoint.load(checkpoint.latest(tmp_path)) == {"x": 1}
    checkpoint.save(tmp_path, 1, {"x": 2}, keep=1)
    assert checkpoint.load(checkpoint.latest(tmp_path)) == {"x": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_nothing_saved_yet(tmp_path):
    assert checkpoint.latest(tmp_path / "absent") is None


def test_half_written_is_never_chosen_and_cleaned_up(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"x": 1})

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", dies)
        checkpoint.save(tmp_path, 2, {"x": 2})
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoint.load(checkpoint.latest(tmp_path)) == {"x": 1}
    checkpoint.save(tmp_path, 2, {"x": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_full_disk_leaves_the_previous_one_and_says_so(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": torch.ones(4)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="free some space.*step-000001 is whole") as caught:
            checkpoint.save(tmp_path, 2, {"x": torch.ones(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert torch.equal(checkpoint.load(checkpoint.latest(tmp_path))["x"], torch.ones(4))


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_damage_is_noticed(tmp_path, name):
    path = checkpoint.save(tmp_path, 1, {"x": torch.ones(100)})
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="step-000001: damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("value", [{1.5: 1}, {True: 1}, {1, 2}, np.ones(2), b"x"])
def test_what_cannot_come_back_exactly_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match=r"state\.x"):
        checkpoint.save(tmp_path, 1, {"x": value})
    assert checkpoint.latest(tmp_path) is None
