"""Checkpoints into other layouts, and Llama checkpoints into Baichuan's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlhf.models.export import save_checkpoint, save_reward_model, set_chat_template
from rlhf.models.files import check_weights
from rlhf.models.llama import check_llama, check_rope, from_llama, to_llama
from rlhf.models.llama_files import import_tokenizer, name_rope_base, save_llama_tokenizer
from rlhf.models.load import load_tokenizer, score_statistics
from rlhf.models.official import check_official, write_official
from rlhf.models.registry import read_config
from rlhf.models.source import find_source
from rlhf.runtime.quiet import quiet

Layout = Literal["native", "llama", "official"]


def export(model: Path, out: Path, layout: str = "native", adapter: Path | None = None) -> None:
    """Writes `model`, its adapter merged, into the new directory `out`.

    model: a checkpoint, or an adapter, which is merged into the base that it names.
    adapter: a PEFT LoRA adapter for `model`.
    Raises ValueError, before any weights are read, for what the layout cannot express.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"--to {layout}: no such layout; choose {', '.join(get_args(Layout))}")
    _check_empty(out)
    source = find_source(model, adapter)
    config = read_config(source.base)
    if layout == "llama":
        check_rope(config)
    elif layout == "official":
        check_official(config)
        if source.reward:
            raise ValueError(f"{model}: no official layout for a reward model; use --to native")
    tokenizer = load_tokenizer(source.base)
    with quiet(), torch.no_grad():
        whole = source.load()
        if layout == "llama":
            _save_llama(whole, tokenizer, out)
        elif source.reward:
            mean, std = score_statistics(source.described)
            save_reward_model(whole, tokenizer, out, score_mean=mean, score_std=std)
        else:
            save_checkpoint(whole, tokenizer, out)
            if layout == "official":
                write_official(out)


def import_llama(source: Path, out: Path) -> bool:
    """Writes a LlamaForCausalLM in the layout of Baichuan-7B into the new directory `out`.

    Returns whether its tokenizer could be given role tokens, so that a run can use the result.
    Raises ValueError, before any weights are read, for what the layout cannot hold.
    """
    _check_empty(out)
    check_llama(_llama_config(source))
    check_weights(source)
    with quiet(), torch.no_grad():
        model = from_llama(_load_llama(source))
        out.mkdir(parents=True, exist_ok=True)
        tokenizer = import_tokenizer(source, out)
        if tokenizer is None:
            model.save_pretrained(str(out))
        else:
            save_checkpoint(model, tokenizer, out)
    return tokenizer is not None


def _save_llama(model: Any, tokenizer: Any, out: Path) -> None:
    llama: PreTrainedModel = to_llama(model)
    llama.save_pretrained(str(out))
    name_rope_base(out)
    set_chat_template(model.config, tokenizer)
    save_llama_tokenizer(tokenizer, out)


def _load_llama(source: Path) -> LlamaForCausalLM:
    kind: Any = LlamaForCausalLM
    llama, info = kind.from_pretrained(
        str(source),
        dtype="auto",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        local_files_only=True,
    )
    wrong = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if wrong:
        raise ValueError(
            f"{source}: {wrong[0]} missing or not of config.json's shape; copy the checkpoint again"
        )
    model: LlamaForCausalLM = llama
    return model


def _check_empty(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out}: already there and not an empty directory; name a new one")


def _llama_config(source: Path) -> LlamaConfig:
    file = source / "config.json"
    if not file.is_file():
        raise ValueError(f"{source}: no config.json, so no checkpoint; name a Llama directory")
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
    config: LlamaConfig = LlamaConfig.from_dict(fields)
    return config
