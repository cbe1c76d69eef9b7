"""Settings of every test."""

from __future__ import annotations

import os

# Models here are tiny: a second thread only waits for the first, and for other programs' too, which
# makes a suite on busy cores many times slower. Set before torch is imported, for subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
