"""A small MOSS checkpoint in the official layout: bin shards that carry the causal masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from rlhf.models.moss.configuration import MossConfig
from rlhf.models.moss.modeling import MossForCausalLM

POSITIONS = 512
SHAPE = {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_inner": None}
ADDED = ("<|endoftext|>", "<eoh>", "<eot>", "<eoc>", "<eor>", "<eom>")
TEXTS = [
    "<|Human|>: Hello world<eoh>\n<|Inner Thoughts|>: None<eot>\n<|Commands|>: None<eoc>\n"
    "<|Results|>: None<eor>\n<|MOSS|>: 你好，世界。\n"
]


def official_config(vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["MossForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_moss.MossConfig",
            "AutoModelForCausalLM": "modeling_moss.MossForCausalLM",
        },
        "model_type": "moss",
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - len(ADDED),
        "eos_token_id": vocabulary - 1,
        "n_positions": POSITIONS,
        "n_ctx": POSITIONS,
        "wbits": 32,
        "groupsize": 128,
        "torch_dtype": "float32",
        **SHAPE,
    }


def write_tokenizer(path: Path) -> int:
    """vocab.json, merges.txt and added tokens as for the base model, whose EOS is another."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(TEXTS * 5, trainer)
    bpe.model.save(str(path))
    size: int = bpe.get_vocab_size()
    added = {token: size + index for index, token in enumerate(ADDED)}
    (path / "added_tokens.json").write_text(json.dumps(added))
    settings = {
        "tokenizer_class": "MossTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_moss.MossTokenizer", None]},
        "bos_token": ADDED[0],
        "eos_token": ADDED[0],
        "unk_token": ADDED[0],
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return size + len(added)


def tiny_model(vocabulary: int) -> MossForCausalLM:
    torch.manual_seed(0)
    return MossForCausalLM(MossConfig(**official_config(vocabulary), initializer_range=0.2)).eval()


def write_checkpoint(path: Path) -> Path:
    """An official directory whose Python files must never run."""
    path.mkdir()
    vocabulary = write_tokenizer(path)
    (path / "config.json").write_text(json.dumps(official_config(vocabulary)))
    for part in ("configuration", "modeling", "tokenization"):
        (path / f"{part}_moss.py").write_text("raise SystemExit('remote code has run')\n")
    causal = torch.ones(1, 1, POSITIONS, POSITIONS, dtype=torch.bool).tril()
    masks = {f"transformer.h.{layer}.attn.causal_mask": causal for layer in (0, 1)}
    masks["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e9)
    shards = {
        "pytorch_model-00001-of-00002.bin": dict(tiny_model(vocabulary).state_dict()),
        "pytorch_model-00002-of-00002.bin": masks,
    }
    for shard, tensors in shards.items():
        torch.save(tensors, path / shard)
    places = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    index = {"metadata": {}, "weight_map": places}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[], Path]:
    return lambda: write_checkpoint(tmp_path / "moss")
