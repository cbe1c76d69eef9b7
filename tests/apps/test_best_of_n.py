from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.apps.best_of_n import sample
from rlhf.evaluation import best_of_n
from rlhf.runtime.files import hash_path
from tests.stages.worlds import call, miniature


@pytest.mark.slow
def test_the_curve_of_a_run(tmp_path: Path) -> None:
    config = miniature("mini", tmp_path)
    for stage in ("sft", "collect", "rm"):
        call(config, only=stage)
    run = tmp_path / "mini"
    before = hash_path(run / "rm")
    folder, curve = sample(run, None, samples=4, count=3)
    rows = best_of_n.read(run)
    assert [row["n"] for row in curve] == [1, 2, 4] and curve[0]["prompts"] == 3
    assert len(rows) == 12 and len({row.text for row in rows}) > 3
    assert {(row.judge, row.simulated) for row in rows} == {("demo rubric without noise", True)}
    assert curve[2]["score"] >= curve[1]["score"] >= curve[0]["score"]
    assert json.loads((folder / "report.json").read_text("utf-8"))["rm"]["best_of_n"] == curve
    assert hash_path(run / "rm") == before  # PPO has no reason to run again
    assert sample(run, None, samples=4, count=3)[1] == curve


def test_what_is_no_run_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a run directory"):
        sample(tmp_path, None, 4, 3)
