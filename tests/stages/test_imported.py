"""The whole pipeline with an imported Llama for its main model: its own tokenizer and format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlhf.apps.export import export, import_llama
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.registry import spec_of
from tests.llamas import byte_level_tokenizer, write_llama
from tests.stages.worlds import call, miniature, statuses

pytestmark = pytest.mark.slow


def test_every_stage_runs_on_an_imported_llama(tmp_path: Path) -> None:
    write_llama(tmp_path / "llama", rope_theta=100_000.0, tie_word_embeddings=True)
    source = byte_level_tokenizer()
    source.save_pretrained(tmp_path / "llama")
    import_llama(tmp_path / "llama", tmp_path / "base")
    # The demo's other sources have other tokenizers; their texts are encoded anew here.
    call(
        miniature("run", tmp_path),
        f"models.main.path={tmp_path / 'base'}",
        "models.main.architecture=baichuan-7b",
        "sft.max_length=400",
        "rm.data.max_length=400",
        "ppo.max_prompt_tokens=300",
    )
    assert set(statuses(tmp_path / "run").values()) == {"done"}
    spec = spec_of(tmp_path / "base")
    assert spec.turns is not None
    for model, load in (("actor", load_causal_lm), ("critic", load_reward_model)):
        path = tmp_path / "run" / "ppo" / model
        assert spec_of(path) == spec
        assert load_tokenizer(path).encode("a 12 é") == source.encode("a 12 é")
        load(path, dtype=torch.float32, device="cpu")
    export(tmp_path / "run/ppo/actor", tmp_path / "served", "llama")
    assert json.loads((tmp_path / "served/config.json").read_text())["model_type"] == "llama"
