"""Checkpoints of random weights for the benchmarks beside this file, at true size or tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from rlhf.demo import models
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.registry import named

PIECES = 480
TEXTS = [f"{number} 个 random words {number * 7919} and more" for number in range(400)]


def describe(path: Path, name: str, *, tiny: bool, layers: int | None = None) -> None:
    """A checkpoint directory of that architecture, whose config.json has its true size.

    The weights in it are tiny all the same; `tiny` leaves the size to them. layers: None for all.
    """
    spec = named(name)
    tokenizer = models.train_tokenizer(TEXTS, PIECES, dummy_prefix=spec.generation == 1)
    models.write_checkpoint(path, spec, tokenizer, seed=0)
    if tiny:
        return
    size = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": layers or spec.layers,
    }
    length = "max_position_embeddings" if spec.position == "rope" else "model_max_length"
    fill_up(path / "tokenizer.model", PIECES, spec.vocab_size)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | size | {length: 4096}))


def fill_up(tokenizer: Path, pieces: int, size: int) -> None:
    """Give a tokenizer of so many pieces the size of the embedding it is to go with."""
    unused = b"".join(map(_unused, range(pieces, size)))
    tokenizer.write_bytes(tokenizer.read_bytes() + unused)


def _unused(number: int) -> bytes:
    """A piece that no text is cut into, as an entry of sentencepiece's file, to whose end it goes:
    fields 1 (text), 2 (score 0) and 3 (type 5, unused) in field 1."""
    text = f"<unused {number}>".encode()
    fields = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x00\x00" + b"\x18\x05"
    return b"\x0a" + bytes([len(fields)]) + fields


def config_of(path: Path, *, llama: bool) -> Any:
    """The checkpoint's configuration; as a Llama it has the same matrices, unfused."""
    config = AutoConfig.from_pretrained(path)
    if not llama:
        return config
    shape = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    fields = {key: getattr(config, key) for key in (*shape, "num_hidden_layers")}
    return LlamaConfig(**fields, pad_token_id=0, tie_word_embeddings=False)


def two_layers(**more: Any) -> BaichuanConfig:
    """A small model with heads of the true size, to check gradients on."""
    return BaichuanConfig(
        vocab_size=4000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=2,
        num_attention_heads=4,
        position_embedding="rope",
        **more,
    )


def write_base(
    path: Path,
    name: str,
    *,
    tiny: bool,
    dtype: torch.dtype = torch.bfloat16,
    llama: bool = False,
    layers: int | None = None,
) -> None:
    """A language model of random weights in that directory, made on the GPU where there is one."""
    describe(path, name, tiny=tiny, layers=layers)
    for weights in (*path.glob("*.bin"), *path.glob("*.safetensors")):
        weights.unlink()
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = config_of(path, llama=llama)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(path)
