"""The weight files of a checkpoint directory, and whether they are whole."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def weight_files(directory: Path) -> list[Path]:
    """The files that hold weights, the index of shards among them.

    Raises ValueError when there are none, or when a shard that the index names is missing.
    """
    if (directory / ADAPTER_WEIGHTS).is_file():
        return [directory / ADAPTER_WEIGHTS]
    for name in WEIGHT_NAMES:
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():
            return [directory / name]
        if index.is_file():
            return [index, *_shards(index)]
    raise ValueError(f"{directory}: no {' or '.join(WEIGHT_NAMES)}; copy the whole checkpoint")


def check_weights(directory: Path) -> None:
    """Raises ValueError naming the first file that is truncated."""
    for file in weight_files(directory):
        whole = {".safetensors": _safetensors_whole, ".bin": zipfile.is_zipfile}.get(file.suffix)
        if whole is not None and not whole(file):
            raise ValueError(f"{file}: truncated or damaged; copy the file again")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError):
        raise ValueError(f"{index}: not an index of shards; copy the file again") from None
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(f"{index.parent}: shard {missing[0]} missing; copy the whole checkpoint")
    return [index.parent / name for name in names]


def _safetensors_whole(file: Path) -> bool:
    """The header says where the last tensor ends, which is where the file has to end."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            return False
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0) == size
