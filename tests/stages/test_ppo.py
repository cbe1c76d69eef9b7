"""The stage on a tiny model of its own: what it reads, what it leaves, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord, TextRecord
from rlhf.models.load import load_causal_lm
from rlhf.ppo import Stopped
from rlhf.runtime.distributed import StageResult, is_main_process, make_runtime
from rlhf.runtime.manifest import read_manifest
from rlhf.runtime.metrics import read_rows
from rlhf.runtime.run_dir import RunDir
from stages import ppo
from tests.models.test_roles import World, world
from tests.ppo.conftest import ppo_section

__all__ = ["world"]  # fixtures


def run_stage(world: World, folder: Path, **changes: Any) -> StageResult:
    """The stage alone, in `folder`/run."""
    section = ppo_section(
        actor=str(world.sft),
        reward_model=str(world.reward),
        iterations=3,
        max_prompt_tokens=40,
        score={"normalisation": "fixed"},
        **changes,
    )
    config = Config.model_validate(
        {
            "name": "run",
            "output_dir": str(folder),
            "models": {"main": {"path": "x", "architecture": "baichuan2-7b", "size": "s"}},
            "runtime": {"device": "cpu", "trackers": []},
            "ppo": section.model_dump(),
        }
    )
    run_dir = RunDir(config.run_dir)
    prompts = [
        PromptRecord(id=f"p{i}", messages=(Message(role="user", content="ab" * i),))
        for i in range(1, 6)
    ]
    if is_main_process():
        run_dir.data.mkdir(parents=True, exist_ok=True)
        write_jsonl(run_dir.data / "prompts.jsonl", prompts)
    return ppo.run(config, make_runtime(config, run_dir))


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
def test_text_is_mixed_in_a_judge_watches_and_the_average_is_saved(
    world: World, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.jsonl"
    write_jsonl(texts, [TextRecord(id=str(i), text="a b c " * i) for i in range(1, 4)])
    mix = {"data": str(texts), "rows": 2, "max_length": 16}
    result = run_stage(world, tmp_path, pretraining=mix, ema_decay=0.5, judge=str(world.reward))
    rows = read_rows(result.directory / "metrics.jsonl")
    assert all(row["pretraining_loss"] > 0 for row in rows)
    assert all({"judge", "judge_gain", "judge_gap"} <= row.keys() for row in rows)
    samples = read_rows(result.directory / "samples.jsonl")
    assert [row["step"] for row in samples] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(set(row["prompt"]) == {"a", "b"} and row["response"] for row in samples)
    manifest = read_manifest(result.directory)
    assert manifest is not None and set(manifest.outputs) == {"actor", "actor_ema", "critic"}
    paths = (world.sft, result.directory / "actor_ema", result.directory / "actor")
    start, average, end = (
        load_causal_lm(path, dtype=torch.float32, device="cpu").lm_head.weight for path in paths
    )
    assert 0 < (average - end).norm() < (start - end).norm()


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
def test_an_alarm_that_stopped_a_run_is_relaxed_and_the_run_goes_on(
    world: World, tmp_path: Path
) -> None:
    """Also to rules that roll back, of whose best checkpoint nobody has thought before."""
    relaxed = {"kl": {"action": "warn"}, "clip_fraction": {"high": 1.0, "action": "rollback"}}
    with pytest.raises(Stopped, match="ppo iteration 2: kl"):
        strict = {"kl": {"high": 1e-6, "action": "stop"}}
        run_stage(world, tmp_path, checkpoint_every=1, monitors=strict)
    folder = tmp_path / "run" / "ppo"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000001"]
    before = read_rows(folder / "metrics.jsonl")
    run_stage(world, tmp_path, checkpoint_every=1, monitors=relaxed)
    rows = read_rows(folder / "metrics.jsonl")
    names = before[1].keys() - {"alarms"}
    assert [row["step"] for row in rows] == [0, 1, 2] and rows[0] == before[0]
    assert all(rows[1][name] == before[1][name] for name in names)
    manifest = read_manifest(folder)
    assert manifest is not None and len(manifest.resumed) == 1
    assert not (tmp_path / "run" / "aside").exists()


@pytest.mark.parametrize(
    ("engine", "changes", "message"),
    [
        ({"stage": 3}, {"microbatch_tokens": 64}, "differently many microbatches"),
        ({"stage": 2}, {"pretraining": {"data": "x", "rows": 3}}, "rows = 3 is not a multiple"),
        ({"stage": 2}, {"tuning": {"method": "qlora"}}, "ZeRO does not spread 4-bit weights"),
        ({"stage": 3, "offload_optimizer": {"device": "cpu"}}, {}, "optimiser on the CPU"),
    ],
)
def test_what_spread_weights_cannot_do_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: dict[str, Any],
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr("stages.ppo.world_size", lambda: 2)
    monkeypatch.setattr("stages.ppo.read_engine", lambda section: {"zero_optimization": engine})
    world = World(tmp_path / "sft", tmp_path / "rm")
    with pytest.raises(ValueError, match=message):
        run_stage(world, tmp_path, minibatch=6, **changes)


def test_one_trunk_is_whole_everywhere_whatever_deepspeed_spreads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The optimiser of other stages on the CPU is none of PPO's business then."""
    monkeypatch.setattr("stages.ppo.world_size", lambda: 2)
    offload = "runtime.deepspeed=zero3_offload"
    ppo.check(load_config("baichuan2_13b", [offload]))
    with pytest.raises(ValueError, match="on the CPU, which ppo with separate roles cannot"):
        ppo.check(load_config("baichuan2_13b", [offload, "ppo.roles=separate"]))


def test_processes_that_cannot_share_a_minibatch_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.ppo.world_size", lambda: 4)
    world = World(tmp_path / "sft", tmp_path / "rm")
    with pytest.raises(ValueError, match="the number of processes = 4; set .* to 3 or 6, or"):
        run_stage(world, tmp_path, rollout_batch=12, minibatch=6)
