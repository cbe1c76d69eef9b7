"""A tiny random MOSS in the official checkpoint layout, and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

import rlhf.models  # noqa: F401  (registers the family with transformers' Auto classes)
from rlhf.models.spec import ModelSpec

SHAPE = {"n_positions": 512, "n_ctx": 512, "n_embd": 128, "n_layer": 3, "n_head": 4}
ROTARY_DIM = 16
ADDED = ("<|endoftext|>", "<eoh>", "<eot>", "<eoc>", "<eor>", "<eom>")
"""Tokens outside the BPE, in the order of their ids. The base model calls the first one EOS."""
TOKENIZER_CONFIG = {
    "tokenizer_class": "MossTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_moss.MossTokenizer", None]},
    "model_max_length": SHAPE["n_positions"],
    "bos_token": ADDED[0],
    "eos_token": ADDED[0],
    "unk_token": ADDED[0],
}


def write_checkpoint(
    directory: Path, spec: ModelSpec, texts: Sequence[str], vocabulary: int, seed: int
) -> None:
    """A checkpoint with random weights, laid out like the official ones but for the remote code.

    vocabulary: the size to have, with the tokens outside the BPE.
    """
    directory.mkdir(parents=True, exist_ok=True)
    size = _write_tokenizer(directory, spec, texts, vocabulary)
    text = json.dumps(official_config(size), indent=1) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(directory), dtype=torch.float32
        )
    # The official weights carry each layer's causal mask.
    causal = torch.ones(1, 1, SHAPE["n_ctx"], SHAPE["n_ctx"], dtype=torch.bool).tril()
    masks = {f"transformer.h.{i}.attn.causal_mask": causal for i in range(SHAPE["n_layer"])}
    torch.save({**model.state_dict(), **masks}, directory / "pytorch_model.bin")


def official_config(vocabulary: int) -> dict[str, Any]:
    """config.json of a tiny model, in the official field names."""
    return {
        "architectures": ["MossForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_moss.MossConfig",
            "AutoModelForCausalLM": "modeling_moss.MossForCausalLM",
        },
        "model_type": "moss",
        "bos_token_id": vocabulary - len(ADDED),
        "eos_token_id": vocabulary - 1,
        "activation_function": "gelu_new",
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "n_inner": None,
        "rotary_dim": ROTARY_DIM,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": vocabulary,
        "wbits": 32,
        "groupsize": 128,
        **SHAPE,
    }


def _write_tokenizer(
    directory: Path, spec: ModelSpec, texts: Sequence[str], vocabulary: int
) -> int:
    """Byte-level BPE, learnt from the texts and from what MOSS writes around each of them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(ADDED),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *[spec.chat_template] * len(texts)], trainer)
    bpe.model.save(str(directory))
    size: int = bpe.get_vocab_size()
    added = {token: size + index for index, token in enumerate(ADDED)}
    for name, content in {
        "added_tokens.json": added,
        "tokenizer_config.json": TOKENIZER_CONFIG,
    }.items():
        (directory / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return size + len(added)
