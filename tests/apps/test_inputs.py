from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf.apps.inputs import check_inputs, steps
from rlhf.apps.run import STAGES, planned
from rlhf.cli import app
from rlhf.config.load import load_config
from rlhf.runtime.run_dir import RunDir


def told(run_dir: RunDir, *overrides: str, start: str | None = None) -> str:
    """What the run says before its first stage, with prepared data and the base model there."""
    base = run_dir.root / "base"
    base.mkdir(parents=True, exist_ok=True)
    run_dir.data.mkdir(exist_ok=True)
    for name in ("sft", "sft_eval", "prompts", "prompts_eval"):
        (run_dir.data / f"{name}.jsonl").touch()
    keys = [f"models.{name}.path={base}" for name in ("main", "large")]
    keys += [f"collect.models=[{{path: {base}, size: 7b, stage: sft}}]", "rounds=1"]
    config = load_config("tiny", [*keys, *overrides])
    work = planned(config, run_dir, start, None, None)
    try:
        check_inputs(steps(config, run_dir, work))
    except ValueError as error:
        return str(error).replace(f"{run_dir.root}/", "")
    return ""


def test_what_no_stage_makes_is_told_before_the_first(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    gone = "which is not there; add"
    end = "which makes it, to stages in the config"
    assert told(run_dir) == told(run_dir, "stages=[sft]") == ""
    for stages, said in (
        ("rm, sft", f"rm needs collect/rankings.jsonl (train 1), {gone} collect, {end}"),
        ("rm, collect", f"rm needs sft/main (model), {gone} sft, {end}"),
        ("ppo", f"ppo needs sft/main (actor), {gone} sft, {end}"),
        ("sft, collect, ppo", f"ppo needs rm (reward_model), {gone} rm, {end}"),
    ):
        assert told(run_dir, f"stages=[{stages}]") == said
    base = run_dir.root / "base"
    said = told(run_dir, f"rm.model={base}", start="rm")
    again = "which is not there; run stage collect first: --from collect"
    assert said == f"rm needs collect/rankings.jsonl (train 1), {again}"


def test_rounds_read_what_those_before_them_make(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    assert told(run_dir, "rounds=2") == ""
    said = told(run_dir, "rounds=2", "stages=[sft, collect, rm]")
    assert said.startswith(
        "collect needs rounds/1/ppo/actor (source 1), which is not there; add ppo"
    )


@pytest.mark.parametrize("stages", ["rm, sft", "ppo"])
def test_a_run_and_a_dry_one_tell(tmp_path, monkeypatch, stages):
    monkeypatch.chdir(tmp_path)
    for name in STAGES:
        monkeypatch.setitem(STAGES, name, lambda *_: pytest.fail("was begun"))
    for words in (["--dry-run"], []):
        keys = ["--set", f"stages=[{stages}]", "--set", "demo.sft_records=200"]
        done = CliRunner().invoke(app, ["run", "tiny", *words, *keys])
        assert isinstance(done.exception, ValueError)
        assert "which is not there; add" in str(done.exception)
