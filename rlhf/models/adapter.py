"""LoRA adapters: made from the config, and saved with the trunk that they belong to."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from rlhf.config.schema import TuningSection
from rlhf.models.registry import spec_of

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_RECORD = "rlhf_adapter.json"
Task = Literal["causal", "reward"]


@dataclass(frozen=True)
class AdapterRecord:
    """What PEFT's own file does not say: which trunk, by content, and where from here."""

    base_checkpoint_hash: str
    base: str


def add_lora(model: PreTrainedModel, tuning: TuningSection, task: Task) -> PeftModel:
    """Adapters on the linear layers that `tuning` names; a reward model's head is trained whole.

    Raises ValueError for a target that the model does not have.
    """
    return get_peft_model(model, lora_config(model, tuning, task))


def lora_config(model: PreTrainedModel, tuning: TuningSection, task: Task) -> LoraConfig:
    """PEFT's configuration of `tuning` for this model."""
    targets = (
        spec_of(model.config).lora_targets if tuning.targets == "all-linear" else tuning.targets
    )
    linear = {
        name.rpartition(".")[2]
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
    }
    unknown = [target for target in targets if target not in linear]
    if unknown:
        raise ValueError(
            f"tuning.targets: this model has no layer {unknown[0]!r} (query, key and value are one "
            f"W_pack); choose from {', '.join(spec_of(model.config).lora_targets)}"
        )
    return LoraConfig(
        r=tuning.r,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=list(targets),
        task_type="SEQ_CLS" if task == "reward" else "CAUSAL_LM",
        modules_to_save=["score"] if task == "reward" else None,
    )


def write_record(path: Path, base: str, base_hash: str) -> None:
    """The base is kept relative, so that a run directory can be moved as a whole."""
    record = AdapterRecord(base_hash, os.path.relpath(base, path))
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
