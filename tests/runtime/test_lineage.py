from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rlhf.runtime.files import hash_path
from rlhf.runtime.lineage import recorded_hash, trace
from rlhf.runtime.manifest import Artifact, StageManifest, outputs_of
from rlhf.runtime.run_dir import RunDir


def make(run: Path, key: str, **inputs: Path) -> Path:
    """A finished stage that has written one file, and a folder `actor` when it is PPO."""
    directory = run / key
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_text(key)
    (directory / "README.md").write_text("a card")
    if key == "ppo":
        (directory / "actor").mkdir()
        (directory / "actor" / "model.safetensors").write_text("actor")
    manifest = StageManifest(
        stage=key.split("/")[0],
        status="done",
        config_hash="c" * 64,
        inputs={name: Artifact.of(path) for name, path in inputs.items()},
        outputs=outputs_of(directory),
        versions={},
        started="2026-01-01T00:00:00+00:00",
    )
    RunDir(run).record(directory, manifest)
    return directory


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """Base weights and two runs: a's SFT model is the actor that b's PPO starts from."""
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()
    Path("base/config.json").write_text("{}")
    Path("data.jsonl").write_text('{"id": 1}\n\n{"id": 2}\n')
    sft = make(Path("runs/a"), "sft/main", model=Path("base"), train=Path("data.jsonl"))
    rm = make(Path("runs/b"), "rm", model=sft)
    make(Path("runs/b"), "ppo", actor=sft, reward_model=rm)
    return tmp_path


def test_from_an_actor_to_the_base(world):
    actor = trace(Path("runs/b/ppo/actor"))
    assert actor.manifest.stage == "ppo" and actor.hash == hash_path(Path("runs/b/ppo/actor"))
    sft, rm = actor.inputs
    assert [(one.name, one.manifest.stage) for one in (sft, rm)] == [
        ("actor", "sft"),
        ("reward_model", "rm"),
    ]
    assert {one.state for one in (*actor.inputs, *sft.inputs, *rm.inputs)} == {"there"}
    assert [(one.name, one.records) for one in sft.inputs] == [("model", None), ("train", 2)]
    assert actor.base.path == rm.base.path == Path("base") and actor.base.manifest is None
    with pytest.raises(ValueError, match="runs/c: no such file or directory"):
        trace(Path("runs/c"))


def test_the_hash_of_a_stage_follows_from_its_manifest(world):
    for path in (Path("runs/a/sft/main"), Path("runs/b/ppo/actor")):
        assert trace(path).hash == hash_path(path)
    ppo = trace(Path("runs/b/ppo"))  # holds a folder, whose files the manifest does not list
    assert ppo.hash is None
    assert recorded_hash(Path("x/none"), Path("x"), ppo.manifest) is None


def test_what_has_changed_or_is_gone_is_marked(world):
    Path("data.jsonl").write_text("{}\n")
    make_again = Path("runs/a/sft/main/model.safetensors")
    manifest = trace(Path("runs/a/sft/main")).manifest
    make_again.write_text("trained again")
    again = manifest.model_copy(update={"outputs": outputs_of(Path("runs/a/sft/main"))})
    RunDir(Path("runs/a")).record(Path("runs/a/sft/main"), again)
    Path("base").rename("elsewhere")
    sft, rm = trace(Path("runs/b/ppo/actor")).inputs
    assert (sft.state, rm.state, rm.inputs[0].state) == ("changed", "there", "changed")
    assert [one.state for one in sft.inputs] == ["gone", "changed"]


def test_a_run_that_was_moved(world, monkeypatch):
    """What lay in the run directory is found there, the rest where it was."""
    Path("moved").mkdir()
    Path("runs/b").rename("moved/b")
    actor = trace(Path("moved/b/ppo/actor"))
    assert [one.state for one in actor.inputs] == ["there", "there"]
    assert actor.inputs[1].path == (world / "moved/b/rm")


def test_a_model_trained_again_on_what_it_judged(world):
    """Its place is in its own past: the way back ends there, marked."""
    labels = make(Path("runs/b"), "collect", judge=Path("runs/b/rm"))
    shutil.rmtree("runs/b/rm")
    again = make(Path("runs/b"), "rm", model=Path("runs/a/sft/main"), rankings=labels)
    rankings = trace(again).inputs[1]
    judge = rankings.inputs[0]
    assert (rankings.name, judge.name, judge.path) == ("rankings", "judge", world / "runs/b/rm")
    ends = judge.inputs[1]
    assert (ends.name, ends.state, ends.inputs) == ("rankings", "changed", ())
