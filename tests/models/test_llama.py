from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM, BaichuanForSequenceClassification
from rlhf.models.llama import from_llama, to_llama
from tests.checkpoints import official_config, tiny_model

IDS = torch.arange(3, 43).view(2, 20)
LLAMA = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 64,
}


def tiny_llama(**fields: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(LLAMA | fields))).eval()


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-7b"])
@torch.no_grad()
def test_to_llama_and_back_from_disk(tmp_path: Path, architecture: str) -> None:
    model = tiny_model(architecture)
    to_llama(model).save_pretrained(tmp_path)
    llama = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(llama(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)
    assert torch.allclose(from_llama(llama)(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_norm_head_is_folded_in() -> None:
    rows = to_llama(tiny_model("baichuan2-7b")).lm_head.weight
    assert torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-6)


def test_alibi_is_refused() -> None:
    with pytest.raises(ValueError, match="alibi.*--to official"):
        to_llama(tiny_model("baichuan2-13b"))


@torch.no_grad()
def test_reward_model(tmp_path: Path) -> None:
    config = BaichuanConfig(**official_config("baichuan2-7b"), initializer_range=0.2)
    model = BaichuanForSequenceClassification(config).eval()
    to_llama(model).save_pretrained(tmp_path)
    llama = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(llama).__name__ == "LlamaForSequenceClassification"
    assert torch.allclose(llama(IDS).logits, model(IDS).logits, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_key_value_heads": 2},
        {"num_key_value_heads": 1, "tie_word_embeddings": True, "rope_theta": 500_000.0},
        {"num_key_value_heads": 2, "rope_scaling": SCALED, "rms_norm_eps": 1e-5},
    ],
    ids=["plain", "grouped", "tied", "scaled"],
)
@torch.no_grad()
def test_from_llama(tmp_path: Path, fields: dict[str, object]) -> None:
    llama = tiny_llama(**fields)
    from_llama(llama).save_pretrained(tmp_path)
    model = BaichuanForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(model(IDS).logits, llama(IDS).logits, rtol=0, atol=1e-5)
    assert model.config.rope_parameters == llama.config.rope_parameters
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert model.model.layers[0].self_attn.W_pack.weight.shape == (192, 64)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"head_dim": 32}, "4 heads of 32 are not the hidden size 64"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type dynamic: "),
        ({"rope_scaling": LONG}, "rope_type longrope: "),
    ],
)
def test_what_the_layout_cannot_hold(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_llama(tiny_llama(**fields))
