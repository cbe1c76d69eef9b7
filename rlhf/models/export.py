"""Checkpoints to disk, in a layout that every loader here and transformers' Auto classes read."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.integrations import dequantize_module_weight
from transformers import PreTrainedModel

from rlhf.models.adapter import write_record
from rlhf.models.baichuan.tokenization import BaichuanTokenizer
from rlhf.models.load import checkpoint_hash
from rlhf.models.registry import spec_of


def save_checkpoint(
    model: PreTrainedModel | PeftModel, tokenizer: BaichuanTokenizer, path: str | Path
) -> None:
    """Whole weights in safetensors, the native config, and the tokenizer with its chat template.

    An adapted model is saved merged; it goes on unmerged, unchanged.
    """
    plain = merge_adapter(model) if isinstance(model, PeftModel) else model
    plain.save_pretrained(str(path))
    _save_tokenizer(plain, tokenizer, path)


def save_reward_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: BaichuanTokenizer,
    path: str | Path,
    *,
    score_mean: float | None,
    score_std: float | None,
) -> None:
    """A reward model with the statistics of its scores, whole or, when adapted, as adapter and head.

    An adapter is saved with the hash of the checkpoint that its trunk was loaded from.
    """
    trunk = model.get_base_model() if isinstance(model, PeftModel) else model
    trunk.config.score_mean, trunk.config.score_std = score_mean, score_std
    if not isinstance(model, PeftModel):
        save_checkpoint(model, tokenizer, path)
        return
    model.save_pretrained(str(path))
    trunk.config.save_pretrained(str(path))
    base = trunk.name_or_path
    write_record(Path(path), base, checkpoint_hash(base))
    _save_tokenizer(trunk, tokenizer, path)


def merge_adapter(model: PeftModel, adapter: str | None = None) -> PreTrainedModel:
    """A plain model on the CPU with one adapter (the active one) folded in; `model` stays as it is."""
    name = adapter or model.active_adapter
    base = model.get_base_model()
    merged: dict[str, torch.Tensor] = {}
    adapted = {key: part for key, part in base.named_modules() if isinstance(part, LoraLayer)}
    kept = {
        key: part for key, part in base.named_modules() if isinstance(part, ModulesToSaveWrapper)
    }
    for key, part in adapted.items():
        weight = dequantize_module_weight(part.get_base_layer())
        if name in part.lora_A:
            weight = weight + part.get_delta_weight(name).to(weight.dtype)
        merged[f"{key}.weight"] = weight
    for key, part in kept.items():
        merged |= {f"{key}.{n}": p for n, p in part.modules_to_save[name].named_parameters()}
    wrapped = tuple(f"{key}." for key in [*adapted, *kept])
    merged |= {k: p for k, p in base.named_parameters() if not k.startswith(wrapped)}
    with torch.device("meta"):
        plain = type(base)(base.config)
    plain.load_state_dict({k: p.detach().cpu() for k, p in merged.items()}, assign=True)
    return plain.eval()


def _save_tokenizer(model: PreTrainedModel, tokenizer: BaichuanTokenizer, path: str | Path) -> None:
    spec = spec_of(model.config)
    user, assistant = tokenizer.convert_ids_to_tokens([spec.user_token_id, spec.assistant_token_id])
    names = f"{{%- set user_token = {user!r} -%}}{{%- set assistant_token = {assistant!r} -%}}"
    tokenizer.chat_template = names + spec.chat_template
    tokenizer.save_pretrained(str(path))
