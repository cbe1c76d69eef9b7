"""The named models, and the spec of any checkpoint."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.moss.configuration import MossConfig
from rlhf.models.spec import ModelSpec
from rlhf.models.turns import Turns

_SIZE_7B: dict[str, Any] = {
    "position": "rope",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "layers": 32,
    "heads": 32,
}
_SIZE_13B: dict[str, Any] = {
    "position": "alibi",
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "layers": 40,
    "heads": 40,
}
_VERSION_1: dict[str, Any] = {
    "family": "baichuan",
    "generation": 1,
    "norm_head": False,
    "vocab_size": 64_000,
    "eos_after_answer": True,
    "system_style": "none",
}
_VERSION_2: dict[str, Any] = {
    "family": "baichuan",
    "generation": 2,
    "norm_head": True,
    "vocab_size": 125_696,
}

# Names in config.json, of either family.
SIZES = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_max_length",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
    "n_embd",
    "n_head",
    "n_inner",
    "n_layer",
    "n_positions",
)
BITSANDBYTES = "bitsandbytes"

FamilyConfig = BaichuanConfig | MossConfig
CONFIGS: dict[str, type[FamilyConfig]] = {
    kind.model_type: kind for kind in (BaichuanConfig, MossConfig)
}

REGISTRY: dict[str, ModelSpec] = {
    "baichuan-7b": ModelSpec(name="baichuan-7b", **_VERSION_1, **_SIZE_7B),
    "baichuan-13b": ModelSpec(name="baichuan-13b", **_VERSION_1, **_SIZE_13B),
    "baichuan2-7b": ModelSpec(name="baichuan2-7b", **_VERSION_2, **_SIZE_7B),
    "baichuan2-13b": ModelSpec(name="baichuan2-13b", **_VERSION_2, **_SIZE_13B),
    "moss-moon-003": ModelSpec(
        name="moss-moon-003",
        family="moss",
        generation=3,
        position="rotary-codegen",
        norm_head=False,
        vocab_size=107_008,
        hidden_size=6144,
        intermediate_size=24_576,
        layers=34,
        heads=24,
        context=2048,
        chat_style="moss",
        lora_targets=("qkv_proj", "out_proj", "fc_in", "fc_out"),
        files=("config.json", "vocab.json", "merges.txt"),
    ),
}

_SMOLLM2: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "heads": 9,
    "context": 8192,
}
IMPORTED: dict[str, ModelSpec] = {
    name: replace(REGISTRY["baichuan-7b"], name=name, layers=layers, **_SMOLLM2)
    for name, layers in (("smollm2-135m", 30), ("smollm2-100m", 20))
}
"""Members brought from elsewhere in the layout of one above: their sizes, before they are there."""


def named(name: str) -> ModelSpec:
    """The spec of that name; ValueError with the nearest names when there is none."""
    known = REGISTRY | IMPORTED
    if name not in known:
        near = difflib.get_close_matches(name, known, cutoff=0.4) or list(known)
        raise ValueError(f"unknown architecture {name!r}: choose {', '.join(near)}")
    return known[name]


def spec_of(source: str | Path | PreTrainedConfig) -> ModelSpec:
    """The spec of a checkpoint directory or configuration: its architecture's, with its own sizes.

    Raises ValueError where the directory has no readable configuration of these families.
    """
    config: Any = read_config(source) if isinstance(source, (str, Path)) else source
    assert isinstance(config, FamilyConfig)
    chat: dict[str, Any] = {}
    if isinstance(config, BaichuanConfig) and config.chat_turns is not None:
        fields: dict[str, Any] = config.chat_turns
        chat = {"chat_style": "turns", "turns": Turns(**fields)}
        chat["files"] = ("config.json", "tokenizer.json")
    elif isinstance(config, BaichuanConfig) and config.chat_generation is not None:
        second = REGISTRY["baichuan2-7b"]
        chat = {name: getattr(second, name) for name in ("eos_after_answer", "system_style")}
    for spec in REGISTRY.values():
        if (spec.position, spec.norm_head) == (config.position_embedding, config.norm_head):
            return replace(
                spec,
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                layers=config.num_hidden_layers,
                heads=config.num_attention_heads,
                context=config.model_max_length,
                **chat,
            )
    raise AssertionError("every pair of position embedding and head is in the registry")


def spec_on_disk(path: str | Path) -> ModelSpec | None:
    """The spec of a checkpoint directory; None where there is none, or none yet."""
    return spec_of(path) if (Path(path) / "config.json").is_file() else None


def config_of(spec: ModelSpec, layers: int | None = None) -> FamilyConfig:
    """A configuration of the spec's sizes. layers: how many in place of its own."""
    sizes: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": layers or spec.layers,
        "num_attention_heads": spec.heads,
    }
    if CONFIGS[spec.family] is BaichuanConfig:
        sizes |= {"position_embedding": spec.position, "norm_head": spec.norm_head}
    return CONFIGS[spec.family](**sizes)


def read_config(path: str | Path) -> FamilyConfig:
    """The configuration of a checkpoint directory, without loading anything else."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ValueError(f"{path}: no config.json, so no checkpoint; name a model directory")
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error}); copy the file again") from None
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind not in CONFIGS:
        raise ValueError(
            f"{path}: not a Baichuan or MOSS checkpoint (model_type {kind!r}); "
            f"name a directory of {', '.join(REGISTRY)}"
        )
    _check_sizes(file, fields)
    _check_quantization(file, fields.get("quantization_config"))
    try:
        config: FamilyConfig = CONFIGS[kind].from_dict(fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{file}: {reason}; copy the file again") from None
    except (AttributeError, TypeError) as error:  # a type of numbers that torch does not have
        raise ValueError(f"{file}: {error}; copy the file again") from None
    if config.hidden_act not in ACT2FN:
        raise ValueError(f"{file}: no activation {config.hidden_act!r}; copy the file again")
    if isinstance(config, BaichuanConfig) and config.chat_turns is not None:
        _check_turns(file, config.chat_turns)
    return config


def _check_sizes(file: Path, fields: dict[str, Any]) -> None:
    for name in SIZES:
        size = fields.get(name)
        if isinstance(size, int) and size < 1:
            raise ValueError(f"{file}: {name} is {size}, and no model's is; copy the file again")


def _check_quantization(file: Path, found: Any) -> None:
    """Raises ValueError for weights that another library has packed."""
    if found is None:
        return
    method = found.get("quant_method", BITSANDBYTES) if isinstance(found, dict) else found
    if method != BITSANDBYTES:
        raise ValueError(
            f"{file}: weights quantised by {method!r}, which are not readable here; load the plain "
            "checkpoint, and quantise that (rlhf chat --load-in 4bit)"
        )


def _check_turns(file: Path, found: dict[str, str | None]) -> None:
    parts = {part.name: part.default is None for part in fields_of(Turns)}
    wrong = [name for name in found if name not in parts]
    wrong += [name for name, spare in parts.items() if not spare and found.get(name) is None]
    if wrong:
        raise ValueError(
            f"{file}: chat_turns is not a chat format as saved here (first wrong or missing: "
            f"{wrong[0]}); copy the file again"
        )
