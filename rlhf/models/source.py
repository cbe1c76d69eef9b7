"""A model as it lies on disk, with the adapter that belongs to it, and as one whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from rlhf.models.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_RECORD,
    adapter_base,
    check_adapter,
    read_adapter_config,
)
from rlhf.models.checkpoint import is_adapter
from rlhf.models.export import merge_adapter
from rlhf.models.load import load_causal_lm, load_reward_model
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
            model = load_causal_lm(self.base, **options)
            if self.adapter is not None:
                model = PeftModel.from_pretrained(model, str(self.adapter))
        return merge_adapter(model) if isinstance(model, PeftModel) else model


def find_source(model: Path, adapter: Path | None = None) -> Source:
    """What to load for a checkpoint, with or without an adapter, or for an adapter by itself.

    Raises ValueError for an adapter that is none or does not fit, or whose base is gone.
    """
    if adapter is None:
        if not is_adapter(model):
            return Source(model, None, reward=_scores(read_config(model).architectures))
        reward = read_adapter_config(model)["task_type"] == "SEQ_CLS"
        base = _base(model)
        check_adapter(model, read_config(base))
        return Source(base, model, reward=reward)
    if is_adapter(model):
        raise ValueError(f"{model}: an adapter itself; name the base model, or leave --adapter out")
    if not is_adapter(adapter):
        raise ValueError(f"{adapter}: no {ADAPTER_CONFIG}, so no adapter; name a PEFT directory")
    if read_adapter_config(adapter)["task_type"] == "SEQ_CLS":
        raise ValueError(f"{adapter}: a reward model's adapter; name it in place of {model}")
    check_adapter(adapter, read_config(model))
    return Source(model, adapter, reward=False)


def _scores(architectures: list[str] | None) -> bool:
    return any("SequenceClassification" in name for name in architectures or [])


def _base(adapter: Path) -> Path:
    if (adapter / ADAPTER_RECORD).is_file():
        return adapter_base(adapter)
    base = Path(read_adapter_config(adapter).get("base_model_name_or_path") or "")
    if not (base / "config.json").is_file():
        raise ValueError(
            f"{adapter}: its base {base} is not there; name it, with --adapter for this"
        )
    return base
