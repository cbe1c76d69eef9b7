from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rlhf.cli import app, stages
from rlhf.data.jsonl import write_jsonl
from tests.evaluation.rows import make_rows


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have run, instead of running it."""
    calls: list[dict[str, Any]] = []

    def record(
        path: Path, overrides: list[str] | None, processes: int | None, **options: Any
    ) -> None:
        calls.append({"path": path, "overrides": overrides, "processes": processes, **options})

    monkeypatch.setattr(stages, "_run", record)
    return calls


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ("tiny", "--redo", "--set", "a=1"),
        ("--set", "a=1", "--redo", "tiny"),
        ("stage", "tiny", "--redo", "--set", "a=1"),
    ],
)
def test_a_config_runs_the_stage(called: list[dict[str, Any]], arguments: tuple[str, ...]) -> None:
    assert evaluate(*arguments).exit_code == 0
    assert called == [
        {
            "path": Path("tiny"),
            "overrides": ["a=1"],
            "processes": None,
            "start": None,
            "only": "evaluate",
            "redo": "evaluate",
            "rehearsal": False,
            "dry": False,
        }
    ]


def test_help_names_both_uses(called: list[dict[str, Any]]) -> None:
    assert "rlhf evaluate CONFIG" in evaluate("--help").stdout
    assert "--rehearse" in evaluate("stage", "--help").stdout
    assert evaluate().exit_code == 2
    assert called == []


def test_the_report_and_what_it_cannot_give(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", make_rows([1.0, 2.0, -1.0, 1.0], grade=2))
    done = evaluate("rm", str(tmp_path))
    assert done.exit_code == 0
    assert "not given: trend over grades: every graded pair has grade 2" in done.stdout
    assert "on 4 held-out pairs" in done.stdout
    assert (tmp_path / "report" / "index.html").is_file()


def test_a_table_side_by_side(tmp_path: Path) -> None:
    for name, margins in {"a": [1.0, 2.0], "b": [1.0, -2.0, 1.0]}.items():
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "pairs.jsonl", make_rows(margins))
    done = evaluate(
        "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")
    )
    assert done.exit_code == 0
    assert "Kendall's tau" in done.stdout
    assert "Not tested on the same held-out pairs" in done.stdout
    assert (tmp_path / "out" / "comparison.csv").read_text(encoding="utf-8").count("\n") == 3


def test_names_are_folded_on_a_narrow_terminal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "pairs.jsonl", make_rows([1.0, -2.0, 1.0]))
    words = ["evaluate", "compare", str(tmp_path / "a"), str(tmp_path / "b")]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")], env={"COLUMNS": "40"})
    assert done.exit_code == 0 and "…" not in done.stdout


def test_no_figure_is_cut_off_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [["PPO", "+0.00 (-0.08 to +0.08)", "50.0 % (35 % to 65 %)", "50.0 % (35 %)", "1.74e-05"]]
    report = {"judge": "rubric"}
    monkeypatch.setattr("rlhf.apps.evaluate_policy.evaluate_policy", lambda *_: (tmp_path, report))
    monkeypatch.setattr("rlhf.evaluation.policy_report.lines", lambda _: rows)
    done = CliRunner().invoke(app, ["evaluate", "policy", "run"], env={"COLUMNS": "40"})
    assert done.exit_code == 0 and "PPO" in done.stdout and "…" not in done.stdout
