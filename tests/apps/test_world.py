"""What a user has to bring, by the stages that will run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.apps import world
from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord, SFTRecord


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """configs/baichuan2_7b.yaml with every path under tmp_path, where nothing is yet."""
    paths = {
        "output_dir": tmp_path / "runs",
        "models.main.path": tmp_path / "base",
        "data.sft": tmp_path / "sft.jsonl",
        "data.prompts": tmp_path / "prompts.jsonl",
    }
    return load_config("baichuan2_7b", [f"{key}={path}" for key, path in paths.items()])


def data_of(config: Config, *stages: str) -> set[str]:
    with world.prepared_run(config, stages=stages) as (_, run_dir):
        return {path.name for path in run_dir.data.glob("*.jsonl")}


def test_what_other_stages_read_need_not_be_there(config, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"not there: {tmp_path}/base, {tmp_path}/sft.jsonl; "):
        data_of(config, "sft")
    with pytest.raises(ValueError, match=r"Baichuan2-7B-Chat, .*, \S*sft.jsonl, \S*prompts.jsonl;"):
        data_of(config, "sft", "collect")
    monkeypatch.setattr(world, "check_checkpoint", lambda path: None)
    (tmp_path / "base").mkdir()
    questions = [(Message(role="user", content=f"question {n}: {n * n}"),) for n in range(100)]
    answer = Message(role="assistant", content="yes")
    records = [
        SFTRecord(id=str(n), messages=(*asked, answer), source="test")
        for n, asked in enumerate(questions)
    ]
    write_jsonl(tmp_path / "sft.jsonl", records)
    assert data_of(config, "sft") == {"sft.jsonl", "sft_eval.jsonl"}
    prompts = [PromptRecord(id=str(n), messages=asked) for n, asked in enumerate(questions)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    both = {"sft.jsonl", "sft_eval.jsonl", "prompts.jsonl", "prompts_eval.jsonl"}
    assert data_of(config, "sft") == both
    # A kind that was there once is missed: without it the others would be split differently.
    (tmp_path / "prompts.jsonl").unlink()
    with pytest.raises(ValueError, match="not there: .*prompts.jsonl;"):
        data_of(config, "sft")


def test_the_run_says_what_can_not_be_held_out(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(world, "check_checkpoint", lambda path: None)
    (tmp_path / "base").mkdir()
    asked = ["translate the sentence that follows into good French for a child of"] * 30
    asked += [f"{n} {n}a {n}b" for n in range(30)]
    records = [
        SFTRecord(
            id=str(n),
            messages=(Message(role="user", content=text), Message(role="assistant", content="yes")),
            source="test",
        )
        for n, text in enumerate(asked)
    ]
    write_jsonl(tmp_path / "sft.jsonl", records)
    data_of(config, "sft")
    shown = " ".join(capsys.readouterr().out.split())
    assert "30 of 60 questions (50%) lie in groups of near-duplicates too large to hold" in shown
    data_of(config, "sft")  # prepared before
    assert capsys.readouterr().out == ""
