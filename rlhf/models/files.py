"""The weight files of a checkpoint directory, and whether they are whole."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OLD_ADAPTER_WEIGHTS = "adapter_model.bin"


def weight_files(directory: Path) -> list[Path]:
    """The files that hold weights, the index of shards among them.

    Raises ValueError when there are none, or when a shard that the index names is missing.
    """
    for adapter in (ADAPTER_WEIGHTS, OLD_ADAPTER_WEIGHTS):
        if (directory / adapter).is_file():
            return [directory / adapter]
    for name in WEIGHT_NAMES:
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():
            return [directory / name]
        if index.is_file():
            return [index, *_shards(index)]
    raise ValueError(f"{directory}: no {' or '.join(WEIGHT_NAMES)}; copy the whole checkpoint")


def check_weights(directory: Path) -> None:
    """Raises ValueError naming the first file that is truncated, or that lacks a tensor which the
    index says is in it."""
    named: dict[str, str] = {}
    for file in weight_files(directory):
        if file.suffix == ".json":
            named = _weight_map(file)
        elif file.suffix == ".safetensors":
            absent = {name for name, shard in named.items() if shard == file.name}
            absent -= tensor_shapes(file).keys()
            if absent:
                raise ValueError(
                    f"{file}: {min(absent)} is not in it, though the index says so; copy the "
                    "shards and the index again, all from one place"
                )
        elif not _begins_and_ends_as_zip(file):
            raise ValueError(_damaged(file))


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes that a safetensors file's header names; ValueError when the file is truncated.

    The header says where the last tensor ends, which is where the file has to end.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            raise ValueError(_damaged(file))
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise ValueError(_damaged(file)) from None
    header.pop("__metadata__", None)
    if 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0) != size:
        raise ValueError(_damaged(file))
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def adapter_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """As `tensor_shapes`, of an adapter, in safetensors or, as before 2024, in a .bin file.

    Raises ValueError where there is neither, or none that is whole.
    """
    file, old = directory / ADAPTER_WEIGHTS, directory / OLD_ADAPTER_WEIGHTS
    if file.is_file() or not old.is_file():
        if not file.is_file():
            raise ValueError(f"{directory}: {ADAPTER_WEIGHTS} missing; copy the whole adapter")
        return tensor_shapes(file)
    try:
        tensors = torch.load(old, map_location="meta", weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except (UnpicklingError, RuntimeError, OSError, EOFError, AttributeError):
        raise ValueError(_damaged(old)) from None


def _begins_and_ends_as_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04" and zipfile.is_zipfile(stream)


def _weight_map(index: Path) -> dict[str, str]:
    """The shard of every tensor."""
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{index}: not an index of shards; copy the file again") from None


def _shards(index: Path) -> list[Path]:
    names = sorted(set(_weight_map(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(f"{index.parent}: shard {missing[0]} missing; copy the whole checkpoint")
    return [index.parent / name for name in names]


def _damaged(file: Path) -> str:
    return f"{file}: truncated or damaged; copy the file again"
