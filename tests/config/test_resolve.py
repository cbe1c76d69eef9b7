from __future__ import annotations

from pathlib import Path

from rlhf.config.load import load_config
from rlhf.config.resolve import resolve_paths

ROOTS = {"run://": Path("/r"), "demo://": Path("/r/demo")}


def test_schemes_become_directories_everywhere():
    config = load_config(
        "baichuan2_7b", ["data.sft=demo://sft.jsonl", "ppo.reward_model=run://rounds/1/rm"]
    )
    resolved = resolve_paths(config, ROOTS)
    assert resolved.data.sft == "/r/demo/sft.jsonl"
    assert resolved.ppo.reward_model == "/r/rounds/1/rm"
    assert [source.path for source in resolved.collect.models] == [
        "/r/sft/main",
        "weights/Baichuan2-7B-Chat",
        "weights/Baichuan2-13B-Chat",
    ]


def test_nothing_else_changes():
    config = load_config("baichuan2_7b", ["collect.models=[]"])
    assert resolve_paths(config, ROOTS) == config
    assert resolve_paths(config, {}) == config
