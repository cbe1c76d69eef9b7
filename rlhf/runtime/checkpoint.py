"""Checkpoints of a loop: exact, never half-written, without pickle.

A checkpoint is a directory step-000123 with the tensors in safetensors and everything else in JSON.
It is written under another name, forced to the disk and then renamed, so that one with its final
name is whole.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.runtime.files import sync

_NAME = re.compile(r"step-(\d+)")
_HIDDEN = ".partial-"
_REPLACED = ".replaced-"
_TENSORS = "tensors.safetensors"
_STATE = "state.json"


def save(
    directory: Path,
    step: int,
    state: Mapping[str, Any],
    keep: int = 2,
    spare: int | None = None,
) -> Path:
    """Write a checkpoint and remove all but the newest `keep` and the one of step `spare`.

    state: nested dicts (keys: str, int), lists and tuples of tensors, str, int, float, bool and
    None; the state_dicts of modules and optimisers are. Call it on the main process only. Raises
    OSError, in one line, when it cannot be written, and leaves earlier checkpoints as they are;
    TypeError for any other kind of value.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _clean(directory)
    final = path_of(directory, step)
    draft = directory / f"{_HIDDEN}{final.name}"
    try:
        _write(draft, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        previous = latest(directory)
        kept = f"{previous.name} is whole" if previous else "there is no earlier one"
        raise OSError(
            f"{final}: could not be written ({error}); free some space and run the same command "
            f"again ({kept})"
        ) from error
    if final.exists():  # it may be the only one: a process that dies here must leave it
        final.rename(directory / f"{_REPLACED}{final.name}")
    draft.rename(final)
    sync(directory)
    for old in _all(directory)[:-keep]:
        if step_of(old) != spare:
            _hide(old)
    _clean(directory)
    return final


def return_to(directory: Path, step: int) -> Path:
    """Remove the checkpoints after that of `step`, which is there, and return its path."""
    for newer in _all(directory):
        if step_of(newer) > step:
            _hide(newer)
    _clean(directory)
    newest = latest(directory)
    assert newest is not None and step_of(newest) == step, f"no checkpoint of step {step}"
    return newest


def latest(directory: Path) -> Path | None:
    """The newest checkpoint, or None. For the main process: it puts back what was to be replaced
    when a process died."""
    _restore(directory)
    found = _all(directory)
    return found[-1] if found else None


def path_of(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return directory / f"step-{step:06d}"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was saved at."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def load(checkpoint: Path) -> dict[str, Any]:
    """The state as it was saved, tensors on the CPU.

    Raises ValueError when the checkpoint was damaged after it had been written.
    """
    try:
        tensors = load_file(checkpoint / _TENSORS)
        tree = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        state: dict[str, Any] = _decode(tree, tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"{checkpoint}: damaged ({error}); delete it to go on from the one before"
        ) from error
    return state


def rng_state() -> dict[str, Any]:
    """States of the global generators of Python, numpy and torch (CPU and every CUDA device)."""
    name, keys, *rest = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """state: from `rng_state`, also through a checkpoint. Devices not here are left out."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    devices = torch.cuda.device_count()
    torch.cuda.set_rng_state_all(state["cuda"][:devices])


def _write(folder: Path, state: Mapping[str, Any]) -> None:
    folder.mkdir()
    tensors: dict[str, Tensor] = {}
    tree = _encode(dict(state), tensors, set(), "state")
    save_file(tensors, folder / _TENSORS)
    (folder / _STATE).write_text(json.dumps(tree), encoding="utf-8")
    for name in (_TENSORS, _STATE):
        sync(folder / name)
    sync(folder)


def _encode(value: Any, tensors: dict[str, Tensor], storages: set[int], path: str) -> Any:
    """JSON for `value`: plain values as they are, the rest as {kind: content}. Fills `tensors`, and
    `storages` with the addresses of those that are there as they are."""
    encode = partial(_encode, tensors=tensors, storages=storages)
    if isinstance(value, Tensor):
        name = f"{len(tensors)}:{path}"
        tensors[name] = _apart(value.detach(), storages)
        return {"tensor": name}
    if isinstance(value, Mapping):
        if any(type(key) not in (str, int) for key in value):
            raise TypeError(f"{path}: keys have to be str or int")
        return {"dict": [[key, encode(one, path=f"{path}.{key}")] for key, one in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [encode(one, path=f"{path}.{i}") for i, one in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} cannot be saved; give a tensor or a number")


def _apart(tensor: Tensor, storages: set[int]) -> Tensor:
    """On the CPU, with storage that no other one to be saved has, which safetensors would refuse:
    copied where it is a view or tied, but not the state of a large model that is there already."""
    storage = tensor.untyped_storage()
    whole = storage.nbytes() == tensor.nbytes > 0 and tensor.is_contiguous()
    if tensor.device.type != "cpu" or not whole or storage.data_ptr() in storages:
        return tensor.to("cpu", copy=True).contiguous()
    storages.add(storage.data_ptr())
    return tensor


def _decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(one, tensors) for key, one in content}
    values = [_decode(one, tensors) for one in content]
    return tuple(values) if kind == "tuple" else values


def _all(directory: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [path for path in directory.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def _hide(checkpoint: Path) -> None:
    """Take its name away before it is removed: a half-removed one must not be chosen."""
    checkpoint.rename(checkpoint.with_name(f"{_HIDDEN}old-{checkpoint.name}"))


def _restore(directory: Path) -> None:
    """A checkpoint that was to be replaced gets its name back, or is hidden once its successor has
    that."""
    for path in directory.glob(f"{_REPLACED}*"):
        final = directory / path.name.removeprefix(_REPLACED)
        path.rename(directory / f"{_HIDDEN}old-{final.name}" if final.exists() else final)


def _clean(directory: Path) -> None:
    """Remove what is hidden: old checkpoints, and what a process that died has left."""
    _restore(directory)
    for path in directory.glob(f"{_HIDDEN}*"):
        shutil.rmtree(path)
