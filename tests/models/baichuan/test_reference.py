"""Shapes of all kinds against a plain reference: one token pair at a time, in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.models.baichuan.modeling import BaichuanForCausalLM
from rlhf.models.load import load_causal_lm
from rlhf.models.registry import read_config, spec_of

COMMON: dict[str, Any] = {
    "auto_map": {"AutoConfig": "configuration_baichuan.BaichuanConfig"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "baichuan",
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.29.2",
    "use_cache": True,
}
SIZE_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
}
SIZE_13B = {
    "_from_model_config": True,
    "gradient_checkpointing": [False],
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "model_max_length": 4096,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
}
SECOND = {"tokenizer_class": "BaichuanTokenizer", "vocab_size": 125_696}
# The keys of the official config.json files, Base and Chat alike.
OFFICIAL: dict[str, dict[str, Any]] = {
    "baichuan-7b": SIZE_7B | {"architectures": ["BaiChuanForCausalLM"], "vocab_size": 64_000},
    "baichuan-13b": SIZE_13B | {"architectures": ["BaichuanForCausalLM"], "vocab_size": 64_000},
    "baichuan2-7b": SIZE_7B
    | SECOND
    | {"architectures": ["BaichuanForCausalLM"], "model_max_length": 4096},
    "baichuan2-13b": SIZE_13B | SECOND | {"architectures": ["BaichuanForCausalLM"]},
}
# heads, size of a head, vocabulary, inner size, layers
SHAPES = [
    (3, 8, 317, 50, 1),
    (6, 20, 101, 33, 2),
    (7, 12, 509, 64, 1),
    (1, 32, 64, 8, 3),
    (20, 4, 97, 40, 1),
]


def write(path: Path, fields: dict[str, Any]) -> Path:
    (path / "config.json").write_text(json.dumps(COMMON | fields))
    return path


def small(kind: str, shape: tuple[int, int, int, int, int]) -> dict[str, Any]:
    """The official file of that kind with other numbers in it."""
    heads, size, vocabulary, inner, layers = shape
    fields = OFFICIAL[kind] | {
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "torch_dtype": "float32",
    }
    return fields | ({"z_loss_weight": 0} if kind.startswith("baichuan2") else {})


def slopes(heads: int) -> list[float]:
    """Press et al. (arXiv 2108.12409): powers for a power of two, then every second of the next."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    finer = [2.0 ** (-8.0 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return (first + finer)[:heads]


def rotated(vector: Tensor, place: int) -> Tensor:
    """vector: [D]; pairs are (i, i + D/2), turned by place / 10000^(2i/D)."""
    half = len(vector) // 2
    turned = vector.clone()
    for i in range(half):
        angle = place * 10000.0 ** (-2 * i / len(vector))
        a, b = vector[i], vector[i + half]
        turned[i] = a * math.cos(angle) - b * math.sin(angle)
        turned[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def attended(packed: Tensor, heads: int, rope: bool) -> Tensor:
    """packed: [T, 3H], query, key, value -> [T, H]"""
    length, width = len(packed), packed.shape[1] // 3
    size = width // heads
    out = torch.zeros(length, width, dtype=packed.dtype)
    for head, slope in enumerate(slopes(heads)):
        q, k, v = (packed[:, p * width + head * size :][:, :size] for p in range(3))
        if rope:
            q, k = (torch.stack([rotated(x[t], t) for t in range(length)]) for x in (q, k))
        for t in range(length):
            score = torch.stack([q[t] @ k[s] / math.sqrt(size) for s in range(t + 1)])
            if not rope:
                score = score - slope * torch.arange(t, -1, -1)
            out[t, head * size : (head + 1) * size] = score.softmax(0) @ v[: t + 1]
    return out


def reference(model: BaichuanForCausalLM, kind: str, ids: Tensor) -> Tensor:
    """ids: [T] -> logits [T, V]"""
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    hidden = weights["model.embed_tokens.weight"][ids]
    for index in range(model.config.num_hidden_layers):
        layer = {
            name.removeprefix(f"model.layers.{index}.").removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"model.layers.{index}.")
        }
        packed = normed(hidden, layer["input_layernorm"]) @ layer["self_attn.W_pack"].T
        mixed = attended(packed, model.config.num_attention_heads, kind.endswith("-7b"))
        hidden = hidden + mixed @ layer["self_attn.o_proj"].T
        x = normed(hidden, layer["post_attention_layernorm"])
        gate, up = x @ layer["mlp.gate_proj"].T, x @ layer["mlp.up_proj"].T
        hidden = hidden + (gate * gate.sigmoid() * up) @ layer["mlp.down_proj"].T
    head = weights["lm_head.weight"]
    if kind.startswith("baichuan2"):
        head = head / head.square().sum(-1, keepdim=True).sqrt()
    return normed(hidden, weights["model.norm.weight"]) @ head.T


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", OFFICIAL)
@torch.no_grad()
def test_any_shape(tmp_path: Path, kind: str, shape: tuple[int, int, int, int, int]) -> None:
    torch.manual_seed(1)
    config = read_config(write(tmp_path, small(kind, shape) | {"initializer_range": 0.3}))
    model = BaichuanForCausalLM(config).float().eval()
    ids = torch.randint(3, shape[2], (9,))
    expected = reference(model, kind, ids)
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        logits = model(ids[None]).logits[0].double()
        assert torch.allclose(logits, expected, rtol=0, atol=1e-4)
    padded = torch.cat([torch.zeros(4, dtype=torch.long), ids])[None]
    seen = model(padded, attention_mask=(torch.arange(13) >= 4).long()[None]).logits[0, 4:]
    assert torch.allclose(seen.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", OFFICIAL)
def test_the_official_keys(tmp_path: Path, kind: str) -> None:
    config = read_config(write(tmp_path, OFFICIAL[kind]))
    spec = spec_of(config)
    assert spec.name == kind and spec.vocab_size == OFFICIAL[kind]["vocab_size"]
    assert (config.head_dim, config.model_max_length, config.dtype) == (128, 4096, torch.bfloat16)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    saved = type(config).from_dict(json.loads(config.to_json_string()))
    assert spec_of(saved) == spec and saved.to_dict() == config.to_dict()


@pytest.mark.parametrize("kind", OFFICIAL)
@torch.no_grad()
def test_nothing_is_recomputed_unasked(tmp_path: Path, kind: str) -> None:
    """The official 13B files say `gradient_checkpointing: [false]`, a list that is not empty."""
    config = read_config(write(tmp_path, small(kind, SHAPES[0])))
    model = BaichuanForCausalLM(config)
    assert not model.is_gradient_checkpointing
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    again = load_causal_lm(tmp_path, dtype=torch.float32, device="cpu")
    assert not again.is_gradient_checkpointing
