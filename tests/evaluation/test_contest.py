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


def test_the_baseline_is_another_sft_model_where_a_policy_learnt_from_one(
    runtime: Runtime, tmp_path: Path
) -> None:
    own = made_by("sft", runtime.run_dir.root / "sft/main")
    other = made_by("sft", tmp_path / "x/sft/main")
    assert baseline(None, runtime) == baseline(str(own.parent / "../sft/main"), runtime) == own
    assert baseline(str(other), runtime) == other
    large = made_by("sft", runtime.run_dir.root / "sft/large")
    assert baseline(str(large), runtime) == large
    for start in (
        tmp_path / "weights/Chat",  # downloaded: no stage has made it
        tmp_path / "x/gone",
        made_by("dpo", tmp_path / "x/dpo"),
        made_by("export", tmp_path / "exported"),
        runtime.run_dir.root / "dpo",  # not made yet
        made_by("ppo", tmp_path / "x/ppo") / "actor",
    ):
        assert baseline(str(start), runtime) == own
