"""Settings of every test, and the fixtures of tests.checkpoints."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

# Models here are tiny: a second thread only waits for the first, and for other programs' too, which
# makes a suite on busy cores many times slower. Set before torch is imported, for subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.checkpoints import checkpoint, golden, pieces  # noqa: E402
from tests.stages.worlds import call, miniature  # noqa: E402

__all__ = ["checkpoint", "golden", "pieces"]


def pytest_collection_finish() -> None:
    """What the imports made stays: a run collects garbage before every stage, and would walk
    through a million of the libraries' objects each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run in miniature that went through once, into `mini` beside it.

    Tests that change anything work on a copy.
    """
    config = miniature("mini", tmp_path_factory.mktemp("runs"))
    call(config)
    return config
