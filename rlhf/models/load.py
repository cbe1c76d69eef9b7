"""Checkpoints from disk: checked first, loaded whole or not at all, never with remote code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rlhf.models.adapter import read_record
from rlhf.models.checkpoint import (
    check_checkpoint,
    holds_language_model,
    is_adapter,
    quantised_on_disk,
    refuse_adapter,
    score_statistics,
    unchanged_base,
)
from rlhf.models.quantise import Quantization, bitsandbytes_config, exact_products, hush
from rlhf.models.registry import spec_of
from rlhf.models.reward_model import RewardModel

HEAD = "score.weight"
LEAST_USED = 0.9  # of an embedding's rows: some are padded to a round number


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint directory; ValueError when it has none, or another model's."""
    spec = spec_of(path)
    for name in spec.tokenizer_files:
        if not (Path(path) / name).is_file():
            raise ValueError(f"{path}: {name} missing; copy it from the original checkpoint")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path))
    except Exception:  # sentencepiece, tokenizers and json each have their own
        files = " or ".join([*spec.tokenizer_files, "tokenizer_config.json"])
        raise ValueError(f"{path}: {files} damaged; copy them from the original") from None
    check_vocabulary(path, tokenizer, spec.vocab_size)
    return tokenizer


def check_vocabulary(path: str | Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raises ValueError where a tokenizer is not that of an embedding with so many rows."""
    if not LEAST_USED * rows <= len(tokenizer) <= rows:
        raise ValueError(
            f"{path}: its tokenizer has {len(tokenizer)} tokens, its embedding {rows} rows, so "
            "they are of two models; copy the tokenizer from the original checkpoint"
        )


def load_causal_lm(
    path: str | Path,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    attn: str | None = None,
    quantization: Quantization | None = None,
    mapped: bool = False,
) -> PreTrainedModel:
    """A language model in evaluation mode.

    attn: transformers' name of the attention implementation, None for the best available.
    quantization: weights in 4 bits (NF4, doubly quantised) or 8, by bitsandbytes.
    mapped: leave weights on a CPU in the mapped file, to copy them from there but not to compute.
    """
    refuse_adapter(path)
    check_checkpoint(path)
    model: PreTrainedModel = _load(
        AutoModelForCausalLM, path, dtype, device, quantization, mapped, attn_implementation=attn
    )
    return model


def load_reward_model(
    path: str | Path,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    quantization: Quantization | None = None,
    mapped: bool = False,
) -> RewardModel | PeftModel:
    """A reward model in evaluation mode.

    From a language model's directory: its trunk with a fresh head. From a reward model's: with the
    head that it was saved with, and with its adapter, over its base, where it has one.

    quantization: None loads the base of an adapter as it was when the adapter was trained: over
        other weights it would give other scores. Without an adapter None is plain weights.
    """
    check_checkpoint(path)
    base = Path(path)
    if is_adapter(path):
        base = unchanged_base(base)
        quantization = quantization or read_record(Path(path)).quantization
    trunk: RewardModel = _load(
        AutoModelForSequenceClassification, base, dtype, device, quantization, mapped
    )
    if not is_adapter(path):
        return trunk
    trunk.config.score_mean, trunk.config.score_std = score_statistics(path)
    model: PeftModel = PeftModel.from_pretrained(trunk, str(path))
    return model.eval()


def _load(
    kind: Any,
    path: str | Path,
    dtype: torch.dtype,
    device: str | torch.device,
    quantization: Quantization | None,
    mapped: bool,
    **options: Any,
) -> Any:
    """Nothing is half-loaded: a tensor that is missing or misshapen is an error, not a warning.

    To a GPU every tensor goes straight from the mapped file, which all processes of a host share:
    none of them holds a copy of the model in the host's memory.
    """
    on_cpu = torch.device(device).type == "cpu"
    if quantization is not None:
        if quantised_on_disk(path):
            raise ValueError(f"{path}: its weights are quantised already; load it as it is")
        options["quantization_config"] = bitsandbytes_config(quantization, dtype)
    if quantization is not None or not on_cpu:
        options["device_map"] = str(device)
    try:
        with quietly():
            model, info = kind.from_pretrained(
                str(path),
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                **options,
            )
    except UnpicklingError:
        raise ValueError(
            f"{path}: its .bin files hold more than tensors, which is not read, as it could run "
            "code; copy the original checkpoint again"
        ) from None
    except RuntimeError as error:
        if "PytorchStreamReader" not in str(error):
            raise
        raise ValueError(f"{path}: a .bin file is damaged; copy the checkpoint again") from None
    # A language model's directory has no score head, and a reward model's no language head.
    fresh = {HEAD} if holds_language_model(path) else set()
    wrong = sorted(set(info["missing_keys"]) - fresh)
    wrong += sorted(str(entry[0]) for entry in info["mismatched_keys"])
    wrong += sorted(info["unexpected_keys"])
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} tensors missing, left over or not of config.json's shape (first "
            f"{wrong[0]}); copy the whole checkpoint again"
        )
    if getattr(model, "is_quantized", False):
        exact_products(model)
        hush()
    if quantization is None and on_cpu and not mapped:
        _own_memory(model)
    return model.eval()


def _own_memory(model: torch.nn.Module) -> None:
    """Moves parameters out of the mapped file. Its addresses are not aligned, which changes the
    last bit of products, and a checkpoint written over the one in use would change the model."""
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()


@contextmanager
def quietly() -> Iterator[None]:
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
