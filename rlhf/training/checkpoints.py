"""Checkpoints of transformers' Trainer that are never chosen half-written, and one at Ctrl-C.

The Trainer writes a checkpoint's files one by one. A seal, written last, lists them with their
sizes; only a checkpoint whose seal agrees with what is on disk is resumed from.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlhf.runtime.distributed import barrier, gather
from rlhf.runtime.files import CHECKPOINTS, sync, write_text
from rlhf.runtime.interrupt import held_interrupt

_SEAL = "complete.json"
_PREFIX = "checkpoint-"


def checkpoint_root(output_dir: Path) -> Path:
    """Where the stage that writes to `output_dir` keeps its checkpoints."""
    return output_dir / CHECKPOINTS


def latest(root: Path) -> Path | None:
    """Newest complete checkpoint under `root`, or None. Newer, half-written ones are removed."""
    found = sorted(root.glob(f"{_PREFIX}*"), key=_step, reverse=True)
    for checkpoint in found:
        if _is_complete(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint once every process has written its part."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        barrier()
        if state.is_world_process_zero:
            assert args.output_dir is not None
            _seal(Path(args.output_dir) / f"{_PREFIX}{state.global_step}")


@contextmanager
def saved_at_interrupt(trainer: Trainer) -> Iterator[None]:
    """In here Ctrl-C ends the training with a checkpoint of the step that is under way.

    Raises KeyboardInterrupt then, on every process.
    """
    with held_interrupt("step") as asked:
        trainer.add_callback(_SaveAndStop(asked))
        yield
        if any(gather(asked.is_set())):
            raise KeyboardInterrupt


class _SaveAndStop(TrainerCallback):
    """Has the Trainer do both once it is asked to; Ctrl-C reaches processes one by one."""

    def __init__(self, asked: threading.Event) -> None:
        self._asked = asked

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if any(gather(self._asked.is_set())):
            control.should_save = control.should_training_stop = True


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def _seal(checkpoint: Path) -> None:
    sizes = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        sync(path)
        sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    write_text(checkpoint / _SEAL, json.dumps(sizes, indent=2))


def _is_complete(checkpoint: Path) -> bool:
    seal = checkpoint / _SEAL
    if not seal.is_file():
        return False
    try:
        sizes = json.loads(seal.read_text(encoding="utf-8"))
    except ValueError:  # damaged, as by a power loss
        return False
    return isinstance(sizes, dict) and all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size
        for name, size in sizes.items()
    )
