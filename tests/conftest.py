"""Settings of every test, and the fixtures of tests.checkpoints."""

from __future__ import annotations

import os

# Models here are tiny: a second thread only waits for the first, and for other programs' too, which
# makes a suite on busy cores many times slower. Set before torch is imported, for subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.checkpoints import checkpoint, golden, pieces  # noqa: E402

__all__ = ["checkpoint", "golden", "pieces"]
