"""Small checkpoints of all four architectures in the official layout, and their tokenizers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rlhf.demo import models
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM

VOCABULARY = 512
TEXTS = [
    "你好，世界。今天天气很好，我们去公园。",
    "Hello world, how are you today? The answer is 42.",
    "def double(x):\n\treturn x * 2\n",
]
ARCHITECTURES = ("baichuan-7b", "baichuan-13b", "baichuan2-7b", "baichuan2-13b")


def golden_folder() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "golden"
    return Path(os.environ.get("RLHF_GOLDEN", beside))


@pytest.fixture(params=["baichuan_7b", "baichuan_13b", "baichuan2_7b", "baichuan2_13b"])
def golden(request: pytest.FixtureRequest) -> Path:
    """The folder of one architecture's reference outputs."""
    path = golden_folder() / request.param
    if not path.is_dir():
        pytest.skip(f"no reference outputs at {path}: set RLHF_GOLDEN to their folder")
    return path


def train_tokenizer(dummy_prefix: bool) -> bytes:
    """BPE with byte fallback; reserved pieces up to 196 put the role ids where they belong."""
    return models.train_tokenizer(TEXTS * 20, VOCABULARY, dummy_prefix=dummy_prefix)


@pytest.fixture(scope="session")
def pieces() -> Callable[[int], bytes]:
    """tokenizer.model of a generation of the family."""
    made = {1: train_tokenizer(True), 2: train_tokenizer(False)}
    return made.__getitem__


def official_config(architecture: str, **other: Any) -> dict[str, Any]:
    """config.json as the official checkpoints write it, with other numbers where they are given."""
    rope, second = architecture.endswith("-7b"), architecture.startswith("baichuan2")
    name = "BaichuanForCausalLM" if architecture != "baichuan-7b" else "BaiChuanForCausalLM"
    fields: dict[str, Any] = {
        "architectures": [name],
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaichuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
        },
        "model_type": "baichuan",
        "vocab_size": VOCABULARY,
        "hidden_size": 64 if rope else 80,
        "intermediate_size": 96,
        "num_attention_heads": 4 if rope else 5,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    fields |= {"max_position_embeddings": 256} if rope else {}
    fields |= {"model_max_length": 256} if second or not rope else {}
    return fields | ({"z_loss_weight": 0} if second else {}) | other


def tiny_model(architecture: str, seed: int = 0, **other: Any) -> BaichuanForCausalLM:
    torch.manual_seed(seed)
    config = BaichuanConfig(**official_config(architecture, **other), initializer_range=0.2)
    return BaichuanForCausalLM(config).eval()


@pytest.fixture
def checkpoint(tmp_path: Path, pieces: Callable[[int], bytes]) -> Callable[..., Path]:
    """Writes official directories."""

    def write(
        architecture: str = "baichuan2-7b", *, name: str = "base", seed: int = 0, **other: Any
    ) -> Path:
        return write_checkpoint(tmp_path / name, architecture, pieces, seed, **other)

    return write


def write_checkpoint(
    path: Path, architecture: str, pieces: Callable[[int], bytes], seed: int = 0, **other: Any
) -> Path:
    """An official directory whose Python files must never run."""
    path.mkdir()
    generation = 2 if architecture.startswith("baichuan2") else 1
    (path / "config.json").write_text(json.dumps(official_config(architecture, **other)))
    (path / "tokenizer.model").write_bytes(pieces(generation))
    spelling = "BaiChuanTokenizer" if architecture == "baichuan-7b" else "BaichuanTokenizer"
    tokenizer = {
        "auto_map": {"AutoTokenizer": [f"tokenization_baichuan.{spelling}", None]},
        "tokenizer_class": spelling,
        "add_bos_token": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for part in ("configuration", "modeling", "tokenization"):
        (path / f"{part}_baichuan.py").write_text("raise SystemExit('remote code has run')\n")
    weights = dict(tiny_model(architecture, seed, **other).state_dict())
    if generation == 2:
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    else:
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        torch.save(weights, path / "pytorch_model.bin")
    return path


def edit(path: Path, **fields: object) -> None:
    """Change fields of a directory's config.json."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | fields))
