"""The official checkpoints' layout: their field names and class names, for code that reads those.

The tensors are named as officially already; what differs is config.json and the tokenizer's files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.registry import read_config, spec_of
from rlhf.models.sampling import FILE

ROPE_BASE = {"rope_theta": 10000.0, "rope_type": "default"}
SAME_FIELDS = (
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "rms_norm_eps",
    "tie_word_embeddings",
    "use_cache",
    "vocab_size",
)
SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<unk>",
    "unk_token": "<unk>",
}


def write_official(path: Path) -> None:
    """Rewrites the description files of a natively saved language model.

    `auto_map` names the official code, which is not part of it: whoever wants to run that copies
    the files beside. Raises ValueError as `check_official` does.
    """
    config = read_config(path)
    check_official(config)
    assert isinstance(config, BaichuanConfig)
    files = {
        "config.json": _config(config),
        "tokenizer_config.json": _tokenizer_config(config),
        "special_tokens_map.json": SPECIAL_TOKENS,
        FILE: _generation_config(config, path / FILE),
    }
    for name, fields in files.items():
        text = json.dumps(fields, indent=2, ensure_ascii=False)
        (path / name).write_text(text + "\n", encoding="utf-8")
    if spec_of(config).generation == 1:
        # Its tokenizer would put the dummy prefix in front of the first role token alone. The
        # official code builds prompts of ids.
        (path / "chat_template.jinja").unlink()


def check_official(config: PreTrainedConfig) -> None:
    """Raises ValueError for another family, and for positions and tokenizers that have no place."""
    spec = spec_of(config)
    if not isinstance(config, BaichuanConfig):
        raise ValueError(f"--to official: {spec.name} is kept in its own layout; use --to native")
    if spec.turns is not None:
        raise ValueError(
            "--to official: this model came with a tokenizer of its own, no tokenizer.model; use "
            "--to native or --to llama"
        )
    if config.chat_generation is not None:
        raise ValueError(
            "--to official: this model has Baichuan 2's chat format over Baichuan-7B's plain head, "
            "which has no place in the official layout; use --to llama or --to native"
        )
    rope = config.rope_parameters
    if spec.position == "rope" and rope != ROPE_BASE:
        raise ValueError(
            f"--to official: rotary positions {rope} have no place in the official layout, whose "
            "base is 10000; use --to llama or --to native"
        )


def _spelling(config: BaichuanConfig) -> str:
    """Baichuan-7B's classes have a capital C, all later ones have not."""
    return "BaiChuan" if spec_of(config).name == "baichuan-7b" else "Baichuan"


def _config(config: BaichuanConfig) -> dict[str, Any]:
    name = _spelling(config)
    fields: dict[str, Any] = {
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_baichuan.{name}Config",
            "AutoModelForCausalLM": f"modeling_baichuan.{name}ForCausalLM",
        },
        "model_type": "baichuan",
        "tokenizer_class": f"{name}Tokenizer",
        "torch_dtype": str(config.dtype or "float32").removeprefix("torch."),
    }
    if config.position_embedding == "rope":
        fields["max_position_embeddings"] = config.max_position_embeddings
    # Which Baichuan-7B's file alone has not: the code of the others reads it to build prompts.
    if spec_of(config).name != "baichuan-7b":
        fields["model_max_length"] = config.model_max_length
    if config.norm_head:
        fields["z_loss_weight"] = config.z_loss_weight
    return fields | {name: getattr(config, name) for name in SAME_FIELDS}


def _generation_config(config: BaichuanConfig, file: Path) -> dict[str, Any]:
    """What is there, and what the official chat code needs to build a prompt: a base model's file
    does not say it. As officially, half of the positions are for the answer."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    spec = spec_of(config)
    needed = {
        "user_token_id": spec.user_token_id,
        "assistant_token_id": spec.assistant_token_id,
        "max_new_tokens": spec.context // 2,
    }
    return needed | found


def _tokenizer_config(config: BaichuanConfig) -> dict[str, Any]:
    name = _spelling(config)
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "auto_map": {"AutoTokenizer": [f"tokenization_baichuan.{name}Tokenizer", None]},
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.model_max_length,
        "sp_model_kwargs": {},
        "tokenizer_class": f"{name}Tokenizer",
        "use_fast": False,
        **SPECIAL_TOKENS,
    }
