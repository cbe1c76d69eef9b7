"""LoRA adapters: made from the config, and saved with the trunk that they belong to."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from rlhf.config.schema import TuningSection
from rlhf.models.baichuan.head import NormHead
from rlhf.models.files import adapter_shapes
from rlhf.models.quantise import Quantization
from rlhf.models.registry import spec_of

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_RECORD = "rlhf_adapter.json"
# What makes more of a LoRA adapter than a product to add to a weight.
MORE_THAN_PRODUCTS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
ONE_PACK = "query, key and value are one W_pack; what a normalised lm_head learnt cannot be merged"
Task = Literal["causal", "reward"]


@dataclass(frozen=True)
class AdapterRecord:
    """What PEFT's own file does not say: which trunk, by content, where from here, and in how many
    bits it stood there when the adapter was trained."""

    base_checkpoint_hash: str
    base: str
    quantization: Quantization | None = None


def add_lora(model: PreTrainedModel, tuning: TuningSection, task: Task) -> PeftModel:
    """Adapters on the linear layers that `tuning` names; a reward model's head is trained whole.

    Raises ValueError for a target that the model does not have.
    """
    return get_peft_model(model, lora_config(model, tuning, task))


def cast_adapters(model: nn.Module, dtype: torch.dtype) -> None:
    """Adapters in the type that the trunk computes in; PEFT makes them in float32, and would then
    compute them in it."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)


def lora_config(model: PreTrainedModel, tuning: TuningSection, task: Task) -> LoraConfig:
    """PEFT's configuration of `tuning` for this model."""
    targets = (
        spec_of(model.config).lora_targets if tuning.targets == "all-linear" else tuning.targets
    )
    layers = _mergeable_layers(model)
    unknown = [target for target in targets if target not in layers]
    if unknown:
        raise ValueError(
            f"tuning.targets: this model has no layer {unknown[0]!r} to adapt ({ONE_PACK}); choose "
            f"from {', '.join(spec_of(model.config).lora_targets)}"
        )
    return LoraConfig(
        r=tuning.r,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=list(targets),
        task_type="SEQ_CLS" if task == "reward" else "CAUSAL_LM",
        modules_to_save=["score"] if task == "reward" else None,
    )


def read_adapter_config(path: Path) -> dict[str, Any]:
    """PEFT's own file, its `task_type` filled in; ValueError unless it is of a plain LoRA."""
    file = path / ADAPTER_CONFIG
    try:
        fields: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{file}: not valid JSON; copy the file again") from None
    lora = isinstance(fields, dict) and fields.get("peft_type") == "LORA"
    more = [name for name in MORE_THAN_PRODUCTS if fields.get(name)] if lora else []
    if not lora or more:
        reason = f" ({more[0]} is set)" if more else ""
        raise ValueError(
            f"{path}: not a plain LoRA adapter{reason}; merge it with PEFT, then name that"
        )
    return {**fields, "task_type": fields.get("task_type") or "CAUSAL_LM"}


def check_adapter(path: Path, config: PreTrainedConfig) -> None:
    """Raises ValueError unless an adapter's tensors are, by name and shape, those that its
    configuration makes on a model of `config`. PEFT leaves at zero what it does not find.

    Reads the weights' header only, where it is in safetensors; the model is made without storage.
    """
    fields = read_adapter_config(path)
    found = adapter_shapes(path)
    reward = fields["task_type"] == "SEQ_CLS"
    kind: Any = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this one is never trained
        adapted = _adapted(path, kind.from_config(config), fields.get("target_modules") or [])
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(
            f"{path}: made for another model or rank, or not whole (first {wrong[0]}: "
            f"{found.get(wrong[0])} in place of {expected.get(wrong[0])}); name its own base, or "
            "copy it again"
        )


def _adapted(path: Path, model: PreTrainedModel, targets: str | list[str]) -> PeftModel:
    """The model with the adapter in `path`, its weights not yet read. targets: the names of layers,
    with any part of the path to them or without, or an expression that finds them."""
    layers = _mergeable_layers(model)
    if not isinstance(targets, str):
        _check_targets(path, map(_last_part, targets), layers)
    try:
        adapted: PeftModel = get_peft_model(model, LoraConfig.from_pretrained(str(path)))
    except ValueError as error:  # PEFT's own, such as that it found nothing
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{path}: {reason}; train it again on this model") from None
    parts = adapted.get_base_model().named_modules()
    found = [_last_part(name) for name, part in parts if isinstance(part, LoraLayer)]
    _check_targets(path, found, layers)
    return adapted


def _check_targets(path: Path, targets: Iterable[str], layers: set[str]) -> None:
    wrong = sorted(set(targets) - layers)
    if wrong:
        raise ValueError(
            f"{path}: made for {wrong[0]!r}, no layer of this model to adapt ({ONE_PACK}); train "
            "it again on this model"
        )


def _mergeable_layers(model: nn.Module) -> set[str]:
    """Names, without the path to them, of the layers whose output a product of matrices adds to as
    it would to their weight: linear ones, but not one that normalises the sum."""
    return {
        _last_part(name)
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and not isinstance(part, NormHead)
    }


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def write_record(
    path: Path, base: str, base_hash: str, quantization: Quantization | None = None
) -> None:
    """The base is kept relative, so that a run directory can be moved as a whole."""
    record = AdapterRecord(base_hash, os.path.relpath(base, path), quantization)
    (path / ADAPTER_RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n")


def read_record(path: Path) -> AdapterRecord:
    """The record of an adapter directory; ValueError when it has none."""
    try:
        return AdapterRecord(**json.loads((path / ADAPTER_RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        raise ValueError(
            f"{path}: no readable {ADAPTER_RECORD} beside the adapter; train or copy it again"
        ) from None


def adapter_base(path: Path) -> Path:
    """The directory of the trunk that an adapter belongs to; ValueError when it is gone."""
    base = Path(os.path.normpath(path / read_record(path).base))
    if not base.is_dir():
        raise ValueError(f"{path}: its base {base} is gone; restore it, or train the adapter again")
    return base
