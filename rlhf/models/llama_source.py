"""A Llama checkpoint from elsewhere, a directory or a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.models.files import check_weights
from rlhf.models.gguf import read_gguf


def read_llama_config(source: Path) -> LlamaConfig:
    """Its configuration; ValueError unless it is a whole LlamaForCausalLM in plain weights.

    A GGUF file may be quantised: it is dequantised when it is loaded.
    """
    if is_gguf(source):
        read_gguf(source)
        with_file: Any = LlamaConfig.from_pretrained(str(source.parent), gguf_file=source.name)
        config: LlamaConfig = with_file
        return config
    file = source / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{source}: no config.json, so no checkpoint; name a Llama directory or a GGUF file"
        )
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error}); copy the file again") from None
    if "LlamaForCausalLM" not in (fields.get("architectures") or []):
        raise ValueError(
            f"{source}: not a LlamaForCausalLM (architectures {fields.get('architectures')}); only "
            "that architecture can be re-laid"
        )
    if "quantization_config" in fields:
        raise ValueError(f"{source}: quantised weights; name the checkpoint that they come from")
    check_weights(source)
    return LlamaConfig.from_dict(fields)


def load_llama(source: Path) -> LlamaForCausalLM:
    """The model on the CPU, in the type of its weights (GGUF: float32); ValueError unless whole."""
    kind: Any = LlamaForCausalLM
    directory, options = source, {"dtype": "auto"}
    if is_gguf(source):
        directory, options = source.parent, {"dtype": "float32", "gguf_file": source.name}
    llama, info = kind.from_pretrained(
        str(directory),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        local_files_only=True,
        **options,
    )
    wrong = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if wrong:
        raise ValueError(
            f"{source}: {wrong[0]} missing or not of the config's shape; copy the checkpoint again"
        )
    model: LlamaForCausalLM = llama
    return model


def is_gguf(source: Path) -> bool:
    """Whether it is one file and not a directory."""
    return source.suffix == ".gguf"
