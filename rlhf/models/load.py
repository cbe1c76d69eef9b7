"""Checkpoints from disk: checked first, loaded whole or not at all, never with remote code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging

from rlhf.models.adapter import ADAPTER_CONFIG, adapter_base, read_record
from rlhf.models.baichuan.modeling import BaichuanForCausalLM, BaichuanForSequenceClassification
from rlhf.models.baichuan.tokenization import BaichuanTokenizer
from rlhf.models.files import check_weights, weight_files
from rlhf.models.registry import named, read_config, spec_of

Quantization = Literal["4bit", "8bit"]


def check_checkpoint(path: str | Path, architecture: str | None = None) -> None:
    """Raises a one-line ValueError unless `path` is a complete checkpoint of the family.

    Looks at file names, headers and sizes only. An adapter directory is complete when its base is.
    architecture: the registry's name that it must have, if any.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ValueError(f"{path}: no such directory; download the checkpoint or correct the path")
    spec = spec_of(directory)
    if architecture is not None and named(architecture).name != spec.name:
        raise ValueError(
            f"{path}: is a {spec.name} checkpoint, not {architecture}; correct one of them"
        )
    missing = [name for name in spec.files if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing; copy the whole checkpoint")
    check_weights(directory)
    if (directory / ADAPTER_CONFIG).is_file():
        check_checkpoint(adapter_base(directory))


def load_tokenizer(path: str | Path) -> BaichuanTokenizer:
    """The tokenizer of a checkpoint directory; ValueError when it has none."""
    if not (Path(path) / "tokenizer.model").is_file():
        raise ValueError(f"{path}: tokenizer.model missing; copy it from the original checkpoint")
    return BaichuanTokenizer.from_pretrained(str(path))


def load_causal_lm(
    path: str | Path,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    attn: str | None = None,
    quantization: Quantization | None = None,
) -> BaichuanForCausalLM:
    """A language model in evaluation mode.

    attn: transformers' name of the attention implementation, None for the best available.
    quantization: weights in 4 bits (NF4, doubly quantised) or 8, by bitsandbytes.
    """
    check_checkpoint(path)
    if (Path(path) / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"{path}: holds an adapter, not a language model; merge it into its base first"
        )
    options: dict[str, Any] = {"attn_implementation": attn}
    if quantization is not None:
        options |= {
            "quantization_config": _bitsandbytes(quantization, dtype),
            "device_map": str(device),
        }
    return _load(BaichuanForCausalLM, path, dtype, device, may_miss=frozenset(), **options)


def load_reward_model(
    path: str | Path, *, dtype: torch.dtype, device: str | torch.device
) -> BaichuanForSequenceClassification | PeftModel:
    """A reward model in evaluation mode.

    From a language model's directory: that trunk with a fresh head. From a reward model's: with its head,
    and its adapter where it was saved as one, over the base that it was trained on.
    """
    check_checkpoint(path)
    if (Path(path) / ADAPTER_CONFIG).is_file():
        return _load_adapter(Path(path), dtype, device)
    architectures = json.loads((Path(path) / "config.json").read_text())["architectures"] or [""]
    fresh = "SequenceClassification" not in architectures[0]
    return _load(
        BaichuanForSequenceClassification,
        path,
        dtype,
        device,
        may_miss=frozenset({"score.weight"} if fresh else ()),
    )


def score_statistics(path: str | Path) -> tuple[float | None, float | None]:
    """Mean and standard deviation of a saved reward model's scores, None where unknown."""
    config = read_config(path)
    return config.score_mean, config.score_std


def checkpoint_hash(path: str | Path) -> str:
    """sha256 over the names and contents of the configuration and the weights, in order of name."""
    directory = Path(path)
    files = sorted({directory / "config.json", *weight_files(directory)})
    total = hashlib.sha256()
    for file in files:
        stat = file.stat()
        total.update(
            f"{file.name}:{_file_hash(str(file), stat.st_size, stat.st_mtime_ns)}\n".encode()
        )
    return total.hexdigest()


@lru_cache(maxsize=1024)
def _file_hash(file: str, size: int, modified: int) -> str:
    """size, modified: part of the key, so that a changed file is read again."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load(
    kind: type[PreTrainedModel],
    path: str | Path,
    dtype: torch.dtype,
    device: str | torch.device,
    *,
    may_miss: frozenset[str],
    **options: Any,
) -> Any:
    """Nothing is half-loaded: a tensor that is missing or of another shape is an error, not a warning."""
    with _quietly():
        model, info = kind.from_pretrained(
            str(path),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            **options,
        )
    wrong = sorted(set(info["missing_keys"]) - may_miss)
    wrong += sorted(str(entry[0]) for entry in info["mismatched_keys"])
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} tensors are missing or do not fit config.json, first {wrong[0]}; "
            "copy the whole checkpoint again"
        )
    if "device_map" not in options:
        model.to(device)
    if torch.device(device).type == "cpu":
        _own_memory(model)
    return model.eval()


def _own_memory(model: torch.nn.Module) -> None:
    """Moves parameters out of the mapped file: its addresses are not aligned, which changes the last bit of
    products, and writing a checkpoint over the one in use would change the model."""
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()


@contextmanager
def _quietly() -> Iterator[None]:
    """No report of tensors that are missing on purpose: what is wrong is raised here."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _load_adapter(path: Path, dtype: torch.dtype, device: str | torch.device) -> PeftModel:
    record, base = read_record(path), adapter_base(path)
    if record.base_checkpoint_hash != checkpoint_hash(base):
        raise ValueError(
            f"{path}: its base {base} is not the checkpoint that it was trained on; restore that one"
        )
    trunk = _load(
        BaichuanForSequenceClassification, base, dtype, device, may_miss=frozenset({"score.weight"})
    )
    model = PeftModel.from_pretrained(trunk, str(path))
    trunk.config.score_mean, trunk.config.score_std = score_statistics(path)
    return model.eval()


def _bitsandbytes(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ValueError("quantised loading needs bitsandbytes: pip install '.[gpu]'") from None
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
