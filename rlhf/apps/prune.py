"""A smaller member of the family from a trained one, by taking blocks out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.apps.export import check_empty, record
from rlhf.data.chat_format import encode_conversation
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import SFTRecord
from rlhf.models.checkpoint import check_checkpoint, check_kind
from rlhf.models.export import save_checkpoint
from rlhf.models.load import load_causal_lm as load
from rlhf.models.load import load_tokenizer
from rlhf.models.prune import angular_distances, drop_blocks
from rlhf.models.registry import read_config, spec_of
from rlhf.runtime.quiet import quiet

TEXTS, TOKENS = 64, 512
"""Demonstrations that are read, and how much of each."""


def prune(model: Path, layers: int, data: Path, out: Path) -> tuple[int, int, float]:
    """Writes `model` with `layers` of its blocks into the new directory `out`.

    data: demonstrations on which the blocks are compared.
    Returns the first and the last block taken out, counted from 0, and their angular distance.
    Raises ValueError, before any weights are read, for what cannot be pruned so.
    """
    check_empty(out)
    check_checkpoint(model)
    check_kind(model, "language model")
    spec, config = spec_of(model), read_config(model)
    if spec.family != "baichuan":
        raise ValueError(f"{model}: a {spec.name}; blocks are taken out of Baichuan's layout only")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{model}: quantised; name the plain weights behind it")
    if not 0 < layers < spec.layers:
        raise ValueError(
            f"--layers {layers}: {model} has {spec.layers} blocks; keep 1 to {spec.layers - 1}"
        )
    count = spec.layers - layers
    tokenizer = load_tokenizer(model)

    def texts() -> Iterator[Tensor]:
        for demonstration in islice(read_jsonl(data, SFTRecord), TEXTS):
            ids = encode_conversation(spec, tokenizer, demonstration.messages, TOKENS).input_ids
            yield torch.tensor(ids)

    with quiet(), torch.no_grad():
        options: Any = {"dtype": config.dtype or torch.float32, "device": "cpu"}
        whole = load(model, **options)
        distances = angular_distances(whole, texts(), count)
        first = min(range(len(distances)), key=distances.__getitem__)
        save_checkpoint(drop_blocks(whole, first, count), tokenizer, out)
    last, distance = first + count - 1, distances[first]
    settings = {"blocks": f"{first} to {last}", "distance": f"{distance:.4f}"}
    what = f"`{model}` without blocks {first} to {last} of {spec.layers}; not trained since."
    record("prune", out, spec_of(out), {"model": model, "data": data}, settings, what, False)
    return first, last, distance
