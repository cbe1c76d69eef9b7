from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.apps.prune import prune
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, SFTRecord
from rlhf.models.checkpoint import check_checkpoint
from rlhf.models.registry import spec_of
from rlhf.runtime.lineage import trace

Checkpoint = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    said = (Message(role="user", content="你好"), Message(role="assistant", content="今天天气很好"))
    write_jsonl(tmp_path / "sft.jsonl", [SFTRecord(id="a", messages=said, source="test")])
    return tmp_path / "sft.jsonl"


def test_a_smaller_member_that_can_be_traced(
    checkpoint: Checkpoint, tmp_path: Path, data: Path
) -> None:
    path, out = checkpoint("baichuan-7b", num_hidden_layers=4), tmp_path / "small"
    first, last, distance = prune(path, 3, data, out)
    assert first == last and 0 < distance < 1
    check_checkpoint(out, "baichuan-7b")
    assert spec_of(out).layers == 3
    model, demonstrations = trace(out).inputs
    assert (model.path, demonstrations.path) == (path, data)


def test_what_cannot_be_pruned(checkpoint: Checkpoint, tmp_path: Path, data: Path) -> None:
    path = checkpoint("baichuan-7b")
    with pytest.raises(ValueError, match="has 2 blocks; keep 1 to 1"):
        prune(path, 2, data, tmp_path / "small")
    with pytest.raises(ValueError, match="name a new one"):
        prune(path, 1, data, path)
