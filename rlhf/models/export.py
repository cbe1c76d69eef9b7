"""Checkpoints to disk, in a layout that the loaders here and transformers' Auto classes read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save_file
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.models.adapter import write_record
from rlhf.models.baichuan.tokenization import BaichuanTokenizer
from rlhf.models.checkpoint import checkpoint_hash, quantised_on_disk
from rlhf.models.load import load_causal_lm, load_reward_model
from rlhf.models.quantise import is_quantised, plain_weight, quantization_of
from rlhf.models.registry import spec_of

ADAPTER = "adapter"
"""Folder in a merged model's directory for the adapter that was merged."""


def save_checkpoint(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, path: str | Path
) -> None:
    """Whole weights in safetensors, the native config, and the tokenizer with its chat template.

    An adapted model is saved merged, and its adapter by itself in `adapter/`, which is small enough
    to be kept and sent; it goes on unmerged, unchanged. One over 4 or 8 bits is merged into the
    weights that these were made from, so that what it has learnt is there in as many bits again.
    """
    plain = merge_adapter(model, original=True) if isinstance(model, PeftModel) else model
    plain.save_pretrained(str(path))
    share_weights(path)
    _save_tokenizer(plain.config, tokenizer, path)
    if isinstance(model, PeftModel):
        save_adapter(model, str(model.active_adapter), Path(path) / ADAPTER)


def save_adapter(model: PeftModel, adapter: str, path: Path) -> None:
    """One adapter as PEFT lays it out, in the type that it has, for `rlhf export --adapter`."""
    # Not `state_dict()`, which would spread again what torch has gathered to be saved.
    tensors = get_peft_model_state_dict(
        model,
        state_dict=dict(model.named_parameters()),
        adapter_name=adapter,
        save_embedding_layers=False,
    )
    path.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(weights, path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.peft_config[adapter])
    config.inference_mode = True
    _in_order(config)
    config.save_pretrained(str(path))
    share_weights(path, "adapter_config.json")


def _in_order(config: PeftConfig) -> None:
    """Sorts what PEFT holds as sets: written as they come, equal adapters would have files of
    unequal hashes, and what was made from them would be made again."""
    for name, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, name, sorted(value))


def share_weights(path: str | Path, config: str = "config.json") -> None:
    """Lets those read the weights in `path` who may read the config beside them: safetensors makes
    files for their owner alone, whatever the umask."""
    mode = (Path(path) / config).stat().st_mode
    for weights in Path(path).glob("*.safetensors"):
        with suppress(OSError):  # not every file system has modes
            weights.chmod(mode)


def save_reward_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    *,
    score_mean: float | None,
    score_std: float | None,
) -> None:
    """A reward model with the statistics of its scores; an adapted one as its adapter and its head.

    An adapter goes with the hash of the checkpoint that its trunk was loaded from.
    """
    trunk: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    trunk.config.score_mean, trunk.config.score_std = score_mean, score_std
    if not isinstance(model, PeftModel):
        save_checkpoint(model, tokenizer, path)
        return
    for adapter in model.peft_config.values():
        _in_order(adapter)
    model.save_pretrained(str(path))
    config = unquantised(trunk.config)
    config.architectures = [type(trunk).__name__]
    config.save_pretrained(str(path))
    share_weights(path)
    base = trunk.name_or_path
    write_record(Path(path), base, checkpoint_hash(base), quantization_of(trunk.config))
    _save_tokenizer(trunk.config, tokenizer, path)


def merge_adapter(model: PeftModel, original: bool = False) -> PreTrainedModel:
    """A plain model on the CPU with the active adapter folded in; `model` stays as it is.

    original: as in `merged_weights`.
    """
    base: Any = model.get_base_model()
    weights = merged_weights(model, str(model.active_adapter), original)
    plain = assemble(type(base), base.config, weights)
    if plain.can_generate():
        plain.generation_config = base.generation_config
    return plain


def fold_adapter(model: PeftModel) -> PreTrainedModel:
    """The plain model that `merge_adapter` gives, made of `model` itself, which is of no more use.

    Nothing is copied but one layer's weight at a time. Not for weights in 4 or 8 bits.
    """
    adapter = str(model.active_adapter)
    for part in model.get_base_model().modules():
        if isinstance(part, LoraLayer):
            layer: Any = part.get_base_layer()
            layer.weight.data = _folded(part, adapter, plain_weight(layer))
    unload: Any = model.unload  # puts the layers, and the head that was trained, in their places
    plain: PreTrainedModel = unload()
    plain.requires_grad_(True).eval()
    return plain


def unspread(model: PreTrainedModel) -> PreTrainedModel:
    """A plain model on the CPU of one that is spread over processes, and gathered right now."""
    kind: Any = type(model)  # of what `fully_shard` derives it makes the class it derives from
    plain = assemble(kind, model.config, {n: p.detach().cpu() for n, p in model.named_parameters()})
    if plain.can_generate():
        plain.generation_config = model.generation_config
    return plain


def merged_weights(
    model: PeftModel, adapter: str, original: bool = False
) -> dict[str, torch.Tensor]:
    """The plain model's weights, one adapter folded into them: a whole copy, on the CPU.

    original: of a quantised model, fold it into the weights of its checkpoint instead of those made
        plain again. The latter give what the adapted model gives. But they lie on the steps of
        their bits, and loaded in as many again, all that is less than half a step is lost: nearly
        everything that fine-tuning changes.
    """
    base: Any = model.get_base_model()
    from_file = original_weights(base) if original else {}

    def plain(layer: Any, name: str) -> torch.Tensor:
        return from_file[name] if name in from_file else plain_weight(layer)

    changed = {
        name: part
        for name, part in base.named_modules()
        if isinstance(part, (LoraLayer, ModulesToSaveWrapper))
    }
    inside = tuple(f"{name}." for name in changed)
    # To the CPU one by one: an accelerator that holds the model in 4 bits has no room for all.
    weights = {n: p.detach().cpu() for n, p in base.named_parameters() if not n.startswith(inside)}
    for name, layer in base.named_modules():
        if is_quantised(layer) and f"{name}.weight" in weights:
            weights[f"{name}.weight"] = plain(layer, f"{name}.weight").cpu()
    for name, part in changed.items():
        if isinstance(part, LoraLayer):
            own = plain(part.get_base_layer(), f"{name}.weight")
            weights[f"{name}.weight"] = _folded(part, adapter, own).cpu()
            bias = part.get_base_layer().bias
            if isinstance(bias, torch.Tensor):
                weights[f"{name}.bias"] = bias.detach().cpu()
        else:
            saved = part.modules_to_save[adapter].named_parameters(prefix=name)
            weights |= {key: value.detach().cpu() for key, value in saved}
    return weights


def original_weights(model: PreTrainedModel) -> Mapping[str, torch.Tensor]:
    """Of a model that was quantised when it was loaded, the weights in its checkpoint, mapped from
    there where that is possible; of any other none."""
    path = str(model.name_or_path)
    if quantization_of(model.config) is None or quantised_on_disk(path):
        return {}
    load: Any = load_causal_lm if model.can_generate() else load_reward_model
    plain: PreTrainedModel = load(path, dtype=model.dtype, device="cpu", mapped=True)
    return {name: parameter.detach() for name, parameter in plain.named_parameters()}


def assemble(
    kind: type[PreTrainedModel], config: PreTrainedConfig, weights: dict[str, torch.Tensor]
) -> PreTrainedModel:
    """A model of these very tensors, in evaluation mode."""
    config = unquantised(config)
    with init_empty_weights():  # leaves buffers alone: rotary frequencies are in no checkpoint
        model: PreTrainedModel = kind(config)
    model.load_state_dict(weights, assign=True)
    model.eval()
    return model


def unquantised(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same configuration for plain weights: what is saved here is never quantised."""
    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    return plain


def _folded(layer: Any, adapter: str, weight: torch.Tensor) -> torch.Tensor:
    """Sums in float32 and rounds once."""
    if adapter not in layer.lora_A:
        return weight
    delta: torch.Tensor = layer.get_delta_weight(adapter).detach()
    return (weight.float() + delta.to(weight.device).float()).to(weight.dtype)


def _save_tokenizer(config: Any, tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    set_chat_template(config, tokenizer)
    tokenizer.save_pretrained(str(path))


def set_chat_template(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives the tokenizer the chat format of the model's spec, its role tokens by name.

    With a dummy prefix (the first generation) the role tokens become special: each text between
    them is encoded by itself then, with its own prefix, as in training.
    """
    spec = spec_of(config)
    tokenizer.chat_template = spec.chat_template
    if spec.chat_style == "role-tokens":
        user = str(tokenizer.convert_ids_to_tokens(spec.user_token_id))
        assistant = str(tokenizer.convert_ids_to_tokens(spec.assistant_token_id))
        names = f"{{%- set user_token = {user!r} -%}}{{%- set assistant_token = {assistant!r} -%}}"
        tokenizer.chat_template = names + spec.chat_template
        if isinstance(tokenizer, BaichuanTokenizer) and tokenizer.has_dummy_prefix:
            tokenizer.add_special_tokens({"additional_special_tokens": [user, assistant]})
