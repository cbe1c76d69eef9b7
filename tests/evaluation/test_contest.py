from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord, Provenance, RankingRecord, Response
from rlhf.evaluation.contest import baseline, judge_path, learnt_from_simulated, note_of
from rlhf.runtime.distributed import Runtime, make_runtime
from rlhf.runtime.manifest import Artifact, StageManifest
from rlhf.runtime.run_dir import RunDir


def config(*overrides: str, demo: bool = False) -> Config:
    without = [] if demo else ["demo=null", "annotation.source=page"]
    return load_config("tiny", [*without, *overrides])


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return make_runtime(config(), RunDir(tmp_path / "run"))


def made_by(stage: str, directory: Path, **inputs: Path) -> Path:
    directory.mkdir(parents=True)
    manifest = StageManifest(
        stage=stage,
        status="done",
        config_hash="",
        inputs={re.sub(r"_(?=\d)", " ", name): Artifact.of(inputs[name]) for name in inputs},
        versions={},
        started="",
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


def rankings(path: Path, *simulated: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = Provenance(family="baichuan", model="7b", size="7b", stage="sft")
    answers = tuple(Response(id=name, text=name, provenance=origin) for name in "ab")
    prompt = PromptRecord(id="p", messages=(Message(role="user", content="Q"),))
    write_jsonl(
        path,
        [
            RankingRecord(id=f"{n}", prompt=prompt, responses=answers, ranks=(1, 2), simulated=each)
            for n, each in enumerate(simulated)
        ],
    )
    return path


def test_a_reward_model_is_of_simulated_rankings_where_one_that_it_learnt_from_is(
    tmp_path: Path,
) -> None:
    people = rankings(tmp_path / "x/people.jsonl", False, False)
    mixed = rankings(tmp_path / "x/mixed.jsonl", False, True)
    simulated = made_by("rm", tmp_path / "x/rm", train_1=people, train_2=mixed)
    of_people = made_by("rm", tmp_path / "y/rm", train_1=people, held_1=mixed)
    assert learnt_from_simulated(simulated) and not learnt_from_simulated(of_people)
    base = made_by("sft", tmp_path / "z/base", train=mixed)
    merged = made_by("export", tmp_path / "merged", model=base, adapter=simulated)
    assert learnt_from_simulated(merged) and not learnt_from_simulated(base)
    policy = made_by("ppo", tmp_path / "z/ppo", reward_model=merged, actor=base)
    assert learnt_from_simulated(policy / "actor")
    policy = made_by("ppo", tmp_path / "y/ppo", reward_model=of_people, actor=base)
    assert not learnt_from_simulated(policy / "actor")
    assert not learnt_from_simulated(tmp_path / "of nobody")
    mixed.unlink()
    assert not learnt_from_simulated(simulated)  # nothing says so any more


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
        assert note_of(judge, config(), runtime) == said, judge
    assert note_of(other, config(), runtime) == note_of(tmp_path / "gone", config(), runtime) == ""
    named = config(f"ppo.reward_model={other}")
    assert note_of(other, named, runtime) == said and note_of(own, named, runtime) == ""
    twice = config("rounds=2")
    first = model(runtime.run_dir.stage("rm", 1, 2), "of the first round")
    both = make_runtime(twice, runtime.run_dir)
    assert note_of(first, twice, both) == note_of(own, twice, both) == said
