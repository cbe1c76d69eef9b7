from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.evaluation.contest import baseline, judge_path
from rlhf.runtime.distributed import Runtime, make_runtime
from rlhf.runtime.manifest import StageManifest
from rlhf.runtime.run_dir import RunDir


def config(*overrides: str, demo: bool = False) -> Config:
    without = [] if demo else ["demo=null", "annotation.source=page"]
    return load_config("tiny", [*without, *overrides])


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return make_runtime(config(), RunDir(tmp_path / "run"))


def made_by(stage: str, directory: Path) -> Path:
    directory.mkdir(parents=True)
    manifest = StageManifest(
        stage=stage, status="done", config_hash="", inputs={}, versions={}, started=""
    )
    (directory / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return directory


def test_the_judge_is_named_or_the_rubric_or_ppos_reward_model(runtime: Runtime) -> None:
    ppos = "ppo.reward_model=runs/y/rm"
    assert judge_path(config(), runtime) == runtime.run_dir.root / "rm"
    assert judge_path(config(ppos), runtime) == Path("runs/y/rm")
    assert judge_path(config(ppos, "evaluate.judge=j/rm"), runtime) == Path("j/rm")
    assert judge_path(config(ppos, demo=True), runtime) is None
    assert judge_path(config("evaluate.judge=j/rm", demo=True), runtime) == Path("j/rm")


def test_the_baseline_is_the_sft_model_that_ppo_started_from(
    runtime: Runtime, tmp_path: Path
) -> None:
    own = runtime.run_dir.root / "sft/main"
    assert baseline(config(), runtime) == own
    started = {
        made_by("sft", tmp_path / "x/sft/main"): None,
        tmp_path / "weights/Chat": None,  # downloaded: no stage has made it
        made_by("dpo", tmp_path / "x/dpo"): own,
        made_by("dpo", runtime.run_dir.root / "dpo"): own,
        made_by("ppo", tmp_path / "x/ppo") / "actor": own,
    }
    for actor, expected in started.items():
        assert baseline(config(f"ppo.actor={actor}"), runtime) == (expected or actor)
