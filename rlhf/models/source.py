"""A model as it lies on disk, with the adapter that belongs to it, and as one whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from rlhf.models.adapter import ADAPTER_CONFIG, ADAPTER_RECORD, adapter_base
from rlhf.models.export import merge_adapter
from rlhf.models.load import is_adapter, load_causal_lm, load_reward_model
from rlhf.models.registry import read_config


@dataclass(frozen=True)
class Source:
    """base: the directory with the whole weights; adapter: the one to merge into them, if any."""

    base: Path
    adapter: Path | None
    reward: bool

    @property
    def described(self) -> Path:
        """Where a reward model keeps the statistics of its scores."""
        return self.adapter or self.base

    def load(self) -> PreTrainedModel:
        """The whole model on the CPU, in the type that its config names, the adapter merged."""
        options: Any = {"dtype": read_config(self.base).dtype or torch.float32, "device": "cpu"}
        model: PreTrainedModel | PeftModel
        if self.reward:
            model = load_reward_model(self.described, **options)
        else:
            whole = load_causal_lm(self.base, **options)
            model = whole if self.adapter is None else adapted(whole, self.adapter)
        return merge_adapter(model) if isinstance(model, PeftModel) else model


def find_source(model: Path, adapter: Path | None = None) -> Source:
    """What to load for a checkpoint, with or without an adapter, or for an adapter by itself.

    Raises ValueError for an adapter that is none, or whose base is gone.
    """
    if adapter is None:
        if not is_adapter(model):
            return Source(model, None, reward=_scores(read_config(model).architectures))
        reward = _adapter_fields(model)["task_type"] == "SEQ_CLS"
        return Source(_base(model), model, reward=reward)
    if is_adapter(model):
        raise ValueError(f"{model}: an adapter itself; name the base model, or leave --adapter out")
    if not is_adapter(adapter):
        raise ValueError(f"{adapter}: no {ADAPTER_CONFIG}, so no adapter; name a PEFT directory")
    if _adapter_fields(adapter)["task_type"] == "SEQ_CLS":
        raise ValueError(f"{adapter}: a reward model's adapter; name it in place of {model}")
    return Source(model, adapter, reward=False)


def _scores(architectures: list[str] | None) -> bool:
    return any("SequenceClassification" in name for name in architectures or [])


def _base(adapter: Path) -> Path:
    if (adapter / ADAPTER_RECORD).is_file():
        return adapter_base(adapter)
    base = Path(_adapter_fields(adapter).get("base_model_name_or_path") or "")
    if not (base / "config.json").is_file():
        raise ValueError(
            f"{adapter}: its base {base} is not there; name it, with --adapter for this"
        )
    return base


def _adapter_fields(adapter: Path) -> dict[str, Any]:
    """adapter_config.json; ValueError unless it is a LoRA adapter's."""
    file = adapter / ADAPTER_CONFIG
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{file}: not valid JSON; copy the file again") from None
    if fields.get("peft_type") != "LORA" or fields.get("use_dora"):
        raise ValueError(f"{adapter}: not a plain LoRA adapter; merge it with PEFT, then name that")
    return {"task_type": "CAUSAL_LM"} | fields


def adapted(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """`model` with the adapter over it; ValueError for one that was made for another model."""
    targets = _adapter_fields(adapter)["target_modules"]
    linear = {
        name.rpartition(".")[2]
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
    }
    unknown = [] if isinstance(targets, str) else sorted(set(targets) - linear)
    if unknown:
        raise ValueError(
            f"{adapter}: made for {unknown[0]!r}, which is no linear layer of this model (query, "
            "key and value are one W_pack); train it again on this model"
        )
    try:
        adapted: PeftModel = PeftModel.from_pretrained(model, str(adapter))
    except RuntimeError:  # sizes differ
        raise ValueError(
            f"{adapter}: made for a model of another size; name its own base"
        ) from None
    return adapted
