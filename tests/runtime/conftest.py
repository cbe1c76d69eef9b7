from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rlhf.runtime.distributed import Runtime
from rlhf.runtime.run_dir import RunDir


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """The last of two rounds, on the CPU, with a console that is no terminal."""
    return Runtime(
        run_dir=RunDir(tmp_path / "run"),
        device=torch.device("cpu"),
        dtype=torch.float32,
        seed=0,
        round=2,
        rounds=2,
        console=Console(file=io.StringIO(), width=100),
    )
