"""Tiny random members of the family in the official checkpoint layout, and their tokenizer."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import rlhf.models  # noqa: F401  (registers the family with transformers' Auto classes)
from rlhf.models.export import share_weights
from rlhf.models.spec import ModelSpec

MAX_POSITIONS = 512
ROPE_SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
}
ALIBI_SHAPE = {
    "hidden_size": 160,
    "intermediate_size": 432,
    "num_attention_heads": 5,
    "num_hidden_layers": 3,
}


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, dummy_prefix: bool) -> bytes:
    """A sentencepiece model made the Baichuan way, as the bytes of tokenizer.model.

    BPE, byte fallback, digits split, no normalisation; version 1 has a dummy prefix, 2 none.
    Reserved pieces fill ids 3 to 196, so that 195 and 196 are the role tokens as in the official
    vocabulary.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=dummy_prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        user_defined_symbols=[f"<reserved_{number}>" for number in range(1, 195)],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def official_config(spec: ModelSpec, vocabulary: int) -> dict[str, Any]:
    """config.json of a tiny model with the architecture of `spec`, in the official field names."""
    shape = ROPE_SHAPE if spec.position == "rope" else ALIBI_SHAPE
    length = "max_position_embeddings" if spec.position == "rope" else "model_max_length"
    config: dict[str, Any] = {
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaichuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
        },
        "model_type": "baichuan",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "use_cache": True,
        "torch_dtype": "float32",
        "vocab_size": vocabulary,
        length: MAX_POSITIONS,
        **shape,
    }
    return config | ({"z_loss_weight": 0} if spec.norm_head else {})


TOKENIZER_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<unk>",
    "unk_token": "<unk>",
    "model_max_length": MAX_POSITIONS,
    "tokenizer_class": "BaichuanTokenizer",
}
GENERATION_CONFIG = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "user_token_id": 195,
    "assistant_token_id": 196,
    "max_new_tokens": 64,
    "temperature": 0.3,
    "top_k": 5,
    "top_p": 0.85,
    "repetition_penalty": 1.05,
    "do_sample": True,
}


def write_checkpoint(directory: Path, spec: ModelSpec, tokenizer: bytes, seed: int) -> None:
    """A checkpoint with random weights, laid out like the official ones but for the remote code."""
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = sentencepiece.SentencePieceProcessor(model_proto=tokenizer).vocab_size()
    files = {
        "config.json": official_config(spec, vocabulary),
        "tokenizer_config.json": TOKENIZER_CONFIG,
        "generation_config.json": GENERATION_CONFIG,
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (directory / "tokenizer.model").write_bytes(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(directory), dtype=torch.float32
        )
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if spec.generation == 1:
        torch.save(weights, directory / "pytorch_model.bin")
    else:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        share_weights(directory)
