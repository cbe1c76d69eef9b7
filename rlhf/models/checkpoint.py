"""What lies in a checkpoint's directory, by its files alone: no weight is loaded."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Literal

from rlhf.models.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_RECORD,
    adapter_base,
    check_adapter,
    read_record,
)
from rlhf.models.files import check_weights, weight_files
from rlhf.models.registry import named, read_config, spec_of
from rlhf.models.sampling import check_generation_file

Kind = Literal["language model", "reward model"]


def check_checkpoint(path: str | Path, architecture: str | None = None) -> None:
    """Raises a one-line ValueError unless `path` is a complete checkpoint of a known family.

    Looks at file names, headers and sizes only. An adapter directory is complete when its base is.
    architecture: the registry's name that it must have, if any.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ValueError(f"{path}: no such directory; download the checkpoint or correct the path")
    spec = spec_of(directory)
    if architecture is not None and named(architecture).layout != spec.layout:
        raise ValueError(f"{path}: this is a {spec.name} checkpoint, not {architecture}; name that")
    missing = [name for name in spec.files if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing; copy the whole checkpoint")
    check_generation_file(directory)
    if is_adapter(directory):
        base = adapter_base(directory)
        check_checkpoint(base)
        check_adapter(directory, read_config(base))
    else:
        check_weights(directory)


def is_adapter(path: str | Path) -> bool:
    """Whether a directory holds an adapter over another checkpoint, not weights of its own."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def quantised_on_disk(path: str | Path) -> bool:
    """Whether a checkpoint was saved in 4 or 8 bits."""
    return getattr(read_config(path), "quantization_config", None) is not None


def check_kind(path: str | Path, kind: Kind) -> None:
    """Raises ValueError where a checkpoint directory holds the other kind, or a language model's
    adapter. Either loads as a reward model, a language model with a head that has learnt nothing.
    """
    if kind == "language model" and not (Path(path) / "config.json").is_file():
        refuse_adapter(path)
    found = "language model" if holds_language_model(path) else "reward model"
    if found != kind:
        raise ValueError(f"{path}: this is a {found}, and a {kind} is needed; name one")
    if kind == "language model":
        refuse_adapter(path)


def refuse_adapter(path: str | Path) -> None:
    """Raises ValueError for an adapter where a language model's own weights are needed."""
    if is_adapter(path):
        raise ValueError(
            f"{path}: an adapter, not a whole language model; merge it into its base, with rlhf "
            "export or with PEFT, and name that"
        )


def holds_language_model(path: str | Path) -> bool:
    architectures = read_config(path).architectures or []
    return not any("SequenceClassification" in name for name in architectures)


def unchanged_base(path: Path) -> Path:
    """The directory that an adapter was trained over; ValueError where it is gone or another."""
    base = adapter_base(path)
    if read_record(path).base_checkpoint_hash != checkpoint_hash(base):
        raise ValueError(f"{path}: its base {base} has changed since; restore it, or train again")
    return base


def score_statistics(path: str | Path) -> tuple[float | None, float | None]:
    """Mean and standard deviation of a saved reward model's scores, None where unknown."""
    config = read_config(path)
    return config.score_mean, config.score_std


def checkpoint_hash(path: str | Path) -> str:
    """sha256 over the names and contents of the configuration and the weights, in order of name."""
    directory = Path(path)
    described = (directory / name for name in ("config.json", ADAPTER_CONFIG, ADAPTER_RECORD))
    total = hashlib.sha256()
    for file in sorted([*(f for f in described if f.is_file()), *weight_files(directory)]):
        stat = file.stat()
        digest = _file_hash(str(file), stat.st_size, stat.st_mtime_ns)
        total.update(f"{file.name}:{digest}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=1024)
def _file_hash(file: str, size: int, modified: int) -> str:
    """size, modified: part of the key, so that a changed file is read again."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
