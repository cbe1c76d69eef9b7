"""The committed runs of configs/tiny.yaml reach what CI asks of every other one, and their cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.check_report import numbers

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


@pytest.mark.parametrize("name", ["tiny", "tiny_raw_critic", "tiny_earlier"])
def test_the_committed_run_shows_what_it_must(name: str) -> None:
    report = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert [claim for claim, holds in numbers(report) if not holds] == []
    assert report["run"]["core_minutes"] < 20  # on 2 cores that do nothing else
