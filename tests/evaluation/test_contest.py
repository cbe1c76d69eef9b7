from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.evaluation.contest import background, baseline, judge_path, learnt_from_simulated
from rlhf.runtime.distributed import Runtime, make_runtime
from rlhf.runtime.manifest import Artifact, StageManifest
from rlhf.runtime.run_dir import RunDir


def config(*overrides: str, demo: bool = False) -> Config:
    without = [] if demo else ["demo=null", "annotation.source=page"]
    return load_config("tiny", [*without, *overrides])


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return make_runtime(config(), RunDir(tmp_path / "run"))


def made_by(
    stage: str, directory: Path, summary: dict[str, int] | None = None, **inputs: Path
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    manifest = StageManifest(
        stage=stage,
        status="done",
        config_hash="",
        inputs={name: Artifact.of(path) for name, path in inputs.items()},
        versions={},
        started="",
        summary=summary or {},
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


def test_a_reward_model_is_of_simulated_rankings_where_one_that_it_learnt_from_is(
    tmp_path: Path,
) -> None:
    simulated = made_by("rm", tmp_path / "x/rm", {"simulated_rankings": 3})
    of_people = made_by("rm", tmp_path / "y/rm", {"simulated_rankings": 0})
    earlier = made_by("rm", tmp_path / "w/rm")  # before it was noted
    assert [learnt_from_simulated(each) for each in (simulated, of_people, earlier)] == [1, 0, 0]
    base = made_by("sft", tmp_path / "z/base")
    merged = made_by("export", tmp_path / "merged", model=base, adapter=simulated)
    assert learnt_from_simulated(merged) and not learnt_from_simulated(base)
    policy = made_by("ppo", tmp_path / "z/ppo", reward_model=merged, actor=base)
    assert learnt_from_simulated(policy / "actor")
    policy = made_by("ppo", tmp_path / "y/ppo", reward_model=of_people, actor=base)
    assert not learnt_from_simulated(policy / "actor")
    assert not learnt_from_simulated(tmp_path / "of nobody")


def test_the_judge_that_ppo_trained_against_is_known_by_its_weights(
    runtime: Runtime, tmp_path: Path
) -> None:
    def model(directory: Path, weights: str) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text("{}", encoding="utf-8")
        (directory / "model.safetensors").write_text(weights, encoding="utf-8")
        return directory

    said = " (PPO trained on it: no independent judge)"
    own = model(made_by("rm", runtime.run_dir.root / "rm"), "own")
    copy, other = model(tmp_path / "copy", "own"), model(tmp_path / "other", "another's")
    exported = model(made_by("export", tmp_path / "exported", model=own), "merged")
    (tmp_path / "link").symlink_to(own)
    for judge in (own, own.parent / "sft/../rm", tmp_path / "link", copy, exported):
        assert background(judge, config(), runtime).note == said, judge
    for judge in (other, tmp_path / "gone"):
        assert background(judge, config(), runtime) == (False, False)
    named = config(f"ppo.reward_model={other}")
    assert background(other, named, runtime).note == said
    assert background(own, named, runtime).note == ""
    twice = config("rounds=2")
    first = model(runtime.run_dir.stage("rm", 1, 2), "of the first round")
    both = make_runtime(twice, runtime.run_dir)
    for judge in (first, own):
        assert background(judge, twice, both).note == said
    made_by("rm", own, {"simulated_rankings": 2})
    for judge in (own, copy):  # which has no manifest
        assert background(judge, config(), runtime).simulated
