from __future__ import annotations

from pathlib import Path

from rlhf.apps.dashboard.compare import differences, results, reward_model_lines
from rlhf.apps.dashboard.runs import find_runs
from tests.apps.dashboard.worlds import make_run


def test_results_and_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    root = make_run(tmp_path / "b", kl=0.4)
    (root / "ppo/judge.jsonl").unlink()
    runs = find_runs([tmp_path])
    found = {line[0]: line[1:] for line in results(runs)}
    assert found["SFT: held-out loss, nats per token"] == ["4 → 1"] * 2
    assert found["PPO: score"] == ["0 → 6"] * 2
    assert found["PPO against SFT: win, tie, lose"] == ["2, 1, 1", "–"]
    assert found["PPO against SFT: wins minus losses"] == ["+0.25", "–"]
    assert differences(runs) == [["ppo.kl.initial", "0.2", "0.4"]]  # each has its own folder


def test_reward_models_that_are_tested(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    root = make_run(tmp_path / "b")
    tested, lines, same = reward_model_lines(find_runs([tmp_path]))
    assert [run.name for run in tested] == ["a", "b"] and same
    assert {line[0]: line[1] for line in lines}["accuracy, %"].startswith("75.0 (")
    (root / "rm/pairs.jsonl").unlink()
    assert [run.name for run in reward_model_lines(find_runs([tmp_path]))[0]] == ["a"]
