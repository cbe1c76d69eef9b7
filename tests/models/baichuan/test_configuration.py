from __future__ import annotations

import json

import pytest
import torch

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM
from rlhf.models.registry import REGISTRY

PARAMETERS = {
    "baichuan-7b": 7_000_559_616,
    "baichuan-13b": 13_264_901_120,
    "baichuan2-7b": 7_505_973_248,
    "baichuan2-13b": 13_896_668_160,
}


@pytest.mark.parametrize(
    ("fields", "position"),
    [
        ({"max_position_embeddings": 4096}, "rope"),
        ({"max_position_embeddings": 4096, "model_max_length": 4096}, "rope"),
        ({"model_max_length": 4096}, "alibi"),
        ({"max_position_embeddings": 4096, "position_embedding": "alibi"}, "alibi"),
        ({}, "rope"),
    ],
)
def test_position_embedding(fields: dict[str, object], position: str) -> None:
    assert BaichuanConfig(**fields).position_embedding == position


@pytest.mark.parametrize(
    ("fields", "norm_head"),
    [
        ({"vocab_size": 64_000}, False),
        ({"vocab_size": 64_000, "z_loss_weight": 0}, True),
        ({"vocab_size": 125_696}, True),
        ({"vocab_size": 125_696, "norm_head": False}, False),
    ],
)
def test_norm_head(fields: dict[str, object], norm_head: bool) -> None:
    assert BaichuanConfig(**fields).norm_head is norm_head


def test_saved_explicitly_without_remote_code() -> None:
    config = BaichuanConfig(
        vocab_size=64_000, model_max_length=64, auto_map={"AutoConfig": "x.Y"}, score_mean=1.5
    )
    saved = json.loads(config.to_json_string())
    assert saved["position_embedding"] == "alibi" and saved["norm_head"] is False
    assert "auto_map" not in saved
    assert BaichuanConfig(**saved).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", PARAMETERS)
def test_true_sizes(name: str) -> None:
    spec = REGISTRY[name]
    length = "max_position_embeddings" if spec.position == "rope" else "model_max_length"
    config = BaichuanConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        **{length: 4096},
    )
    with torch.device("meta"):
        model = BaichuanForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert config.head_dim == 128 and config.norm_head is spec.norm_head
