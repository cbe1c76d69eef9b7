from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf.training.checkpoints import SealCheckpoints, latest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Complete checkpoints 8 and 20."""
    for step in (8, 20):
        _write(tmp_path, step)
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        SealCheckpoints().on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    return tmp_path


def test_the_newest_by_number_is_chosen(root: Path) -> None:
    assert latest(root) == root / "checkpoint-20"


def test_an_unsealed_one_is_passed_over_and_removed(root: Path) -> None:
    _write(root, 100)
    assert latest(root) == root / "checkpoint-20"
    assert not (root / "checkpoint-100").exists()


@pytest.mark.parametrize("damage", [b"1", None])
def test_a_damaged_one_is_passed_over(root: Path, damage: bytes | None) -> None:
    weights = root / "checkpoint-20" / "sub" / "weights"
    weights.unlink() if damage is None else weights.write_bytes(damage)
    assert latest(root) == root / "checkpoint-8"


@pytest.mark.parametrize("seal", [b"", b'{"sub/wei', bytes(20), b"\xff", b"0"])
def test_one_with_a_damaged_seal_is_passed_over(root: Path, seal: bytes) -> None:
    (root / "checkpoint-20" / "complete.json").write_bytes(seal)
    assert latest(root) == root / "checkpoint-8"


def test_none_when_there_is_none(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere") is None


def _write(root: Path, step: int) -> None:
    folder = root / f"checkpoint-{step}" / "sub"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1234")
