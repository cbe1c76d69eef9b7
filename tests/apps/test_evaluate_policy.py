from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.apps.evaluate_policy import JudgeChoice, evaluate_policy
from rlhf.config.load import dump_config, load_config

URL = "https://judge.example/v1"


def made(folder: Path, *overrides: str) -> Path:
    """A run directory in which nothing has run."""
    config = load_config("tiny", [f"output_dir={folder}", *overrides])
    config.run_dir.mkdir()
    (config.run_dir / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    return config.run_dir


def fails(run: Path, choice: JudgeChoice, *policies: Path) -> str:
    with pytest.raises(ValueError) as error:
        evaluate_policy(run, policies, choice, None, None)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_are_said_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "name a run directory" in fails(tmp_path / "nowhere", JudgeChoice())
    run = made(tmp_path)
    assert "--judge-model" in fails(run, JudgeChoice(URL))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert "NO_SUCH_KEY" in fails(run, JudgeChoice(URL, "m", "NO_SUCH_KEY"))
    assert "name a policy with --policy" in fails(run, JudgeChoice("rubric"))
    assert "no such directory" in fails(run, JudgeChoice("elsewhere/rm"))
    assert "no such directory" in fails(run, JudgeChoice("rubric"), Path("elsewhere/actor"))


def test_the_rubric_judges_the_demo_only(tmp_path: Path) -> None:
    run = made(tmp_path, "demo=null", "annotation.source=page")
    assert "demo's prompts only" in fails(run, JudgeChoice("rubric"))
