from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from rlhf.apps.run import REDONE, STAGES, check_roles, planned, run, tell_of_idle_gpus
from rlhf.config.load import load_config
from rlhf.config.schema import SamplingSection
from rlhf.runtime.manifest import StageManifest
from rlhf.runtime.run_dir import RunDir

ALL = [
    ("sft", 1),
    ("collect", 1),
    ("rm", 1),
    ("ppo", 1),
    ("collect", 2),
    ("rm", 2),
    ("ppo", 2),
    ("evaluate", 2),
]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def plan(
    run_dir: RunDir, rounds: int = 2, stages: str = "null", **options: str
) -> list[tuple[str, int]]:
    config = load_config("tiny", [f"rounds={rounds}", f"stages={stages}"])
    chosen = {"start": None, "only": None, "redo": None} | options
    return planned(config, run_dir, chosen["start"], chosen["only"], chosen["redo"])


def finish(run_dir: RunDir, key: str, status: str = "done") -> None:
    manifest = StageManifest(
        stage=key.split("/")[-1],
        status=status,
        config_hash="",
        inputs={},
        versions={},
        started="2026-01-01T00:00:00+00:00",
    )
    run_dir.record(run_dir.root / key, manifest)


def test_rounds_repeat_collect_rm_and_ppo(run_dir):
    assert plan(run_dir) == ALL
    assert plan(run_dir, rounds=1) == [*ALL[:4], ("evaluate", 1)]


def test_from_begins_in_the_first_round(run_dir):
    assert plan(run_dir, start="rm") == ALL[2:]
    assert plan(run_dir, start="evaluate") == ALL[-1:]


def test_redo_begins_in_the_last_round_unless_from_says_where(run_dir):
    assert plan(run_dir, redo="rm") == ALL[5:]
    assert plan(run_dir, redo="sft") == ALL
    assert plan(run_dir, redo="ppo", start="rm") == ALL[2:]


def test_only_takes_the_first_round_that_lacks_the_stage(run_dir):
    assert plan(run_dir, only="rm") == [("rm", 1)]
    finish(run_dir, "rounds/1/rm")
    assert plan(run_dir, only="rm") == [("rm", 2)]
    finish(run_dir, "rm", status="running")
    assert plan(run_dir, only="rm") == [("rm", 2)]
    finish(run_dir, "rm")
    assert plan(run_dir, only="rm") == [("rm", 2)]


def test_only_with_redo_is_the_last_round(run_dir):
    assert plan(run_dir, only="rm", redo="rm") == [("rm", 2)]


def test_a_config_may_have_some_stages_alone(run_dir):
    assert plan(run_dir, stages="[sft]") == [("sft", 1)]
    assert plan(run_dir, rounds=1, stages="[ppo, rm, sft]") == [("sft", 1), ("rm", 1), ("ppo", 1)]
    assert plan(run_dir, stages="[sft, evaluate]", start="evaluate") == [("evaluate", 2)]
    with pytest.raises(ValueError, match=r"--from rm: this config has the stages sft, collect;"):
        config = load_config("tiny", ["stages=[collect, sft]"])
        run(config, start="rm", only=None, redo=None, rehearsal=False)


def test_a_whole_reward_model_for_shared_roles_is_refused_before_it_is_trained():
    shared = ["ppo.roles=shared", "ppo.tuning.method=lora"]
    with pytest.raises(ValueError, match="rm.tuning.method is full: set ppo.roles to separate"):
        check_roles(load_config("tiny", shared), {"rm", "ppo"})
    check_roles(load_config("tiny", shared), {"ppo"})
    check_roles(load_config("tiny", [*shared, "rm.tuning.method=lora"]), {"rm", "ppo"})
    check_roles(load_config("tiny"), {"rm", "ppo"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "rlhf"}, "--from rlhf: no such stage; choose one of sft collect dpo rm ppo"),
        ({"only": "pp"}, "--only pp: no such stage"),
        ({"redo": "report"}, "--redo report: no such stage"),
        ({"only": "rm", "start": "sft"}, "--only rm runs nothing else"),
        ({"only": "rm", "redo": "ppo"}, "--only rm runs nothing else"),
        ({"start": "ppo", "redo": "rm"}, "--redo rm comes before --from ppo"),
    ],
)
def test_stages_that_do_not_go_together(options, message):
    chosen = {"start": None, "only": None, "redo": None} | options
    with pytest.raises(ValueError, match=message):
        run(load_config("tiny"), rehearsal=False, **chosen)


def test_gpus_that_one_process_leaves_idle(monkeypatch, capsys):
    config = load_config("tiny", ["runtime.device=cpu"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    tell_of_idle_gpus(config)
    assert capsys.readouterr().err == ""  # no CUDA here, or it is not asked for
    monkeypatch.setattr("rlhf.apps.run.choose_device", lambda section: torch.device("cuda", 0))
    tell_of_idle_gpus(config)
    assert capsys.readouterr().err == "rlhf: one GPU of this host's 8; --nproc 8 takes all\n"


@pytest.mark.parametrize("ends", [RuntimeError("full"), KeyboardInterrupt()])
def test_redo_is_to_be_left_out_once_it_is_done(run_dir, monkeypatch, ends):
    def stage(*_: object) -> None:
        raise ends

    config = load_config("tiny")
    prepared = nullcontext((config, run_dir))
    monkeypatch.setattr("rlhf.apps.run.prepared_run", lambda *_, **__: prepared)
    monkeypatch.setattr("rlhf.apps.run.check_inputs", lambda _: None)  # no stage has run
    monkeypatch.setitem(STAGES, "rm", stage)
    chosen = {"start": None, "only": None, "redo": "rm", "rehearsal": False}
    with pytest.raises(type(ends)) as raised:
        run(config, **chosen)
    assert raised.value.__notes__ == [REDONE]
    monkeypatch.setattr("rlhf.apps.run.planned", stage)
    with pytest.raises(type(ends)) as raised:
        run(config, **chosen | {"redo": "ppo"})
    assert raised.value.__notes__ == [REDONE]  # the one from before


def test_what_ppo_cannot_do_is_told_before_the_stages_in_front_of_it(run_dir, monkeypatch):
    config = load_config("tiny", ["ppo.roles=separate", "runtime.deepspeed=zero3_offload"])
    prepared = nullcontext((config, run_dir))
    monkeypatch.setattr("rlhf.apps.run.prepared_run", lambda *_, **__: prepared)
    monkeypatch.setattr("stages.ppo.world_size", lambda: 2)
    for stage in ("sft", "collect", "rm"):
        monkeypatch.setitem(STAGES, stage, lambda *_: pytest.fail("was begun"))
    with pytest.raises(ValueError, match="which ppo with separate roles cannot"):
        run(config, start=None, only=None, redo=None, rehearsal=False)


def test_answers_without_room_for_a_prompt_are_told_before_the_first_stage(
    run_dir, monkeypatch, checkpoint
):
    """The model reads 256 tokens."""
    config = load_config("tiny", [f"models.main.path={checkpoint()}", "stages=[sft, ppo]"])
    config = config.model_copy(
        update={"ppo": config.ppo.model_copy(update={"sampling": SamplingSection()})}
    )
    prepared = nullcontext((config, run_dir))
    monkeypatch.setattr("rlhf.apps.run.prepared_run", lambda *_, **__: prepared)
    monkeypatch.setitem(STAGES, "sft", lambda *_: pytest.fail("was begun"))
    with pytest.raises(ValueError, match=r"^ppo\.sampling\.max_new_tokens 512 .* reads 256 tokens"):
        run(config, start=None, only=None, redo=None, rehearsal=False)
