"""Where a run computes: device, precision, seeds, and what its processes tell each other.

With one process every function here works without a process group. With several (accelerate
launch, torchrun), a value that all have to agree on goes through `broadcast`, and sums through
`all_sum`; a mean over items is the sum of the items over the sum of their numbers.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from rich.console import Console
from torch import Tensor

from rlhf.config.schema import Config, RuntimeSection
from rlhf.runtime.run_dir import RunDir

T = TypeVar("T")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Summary = Mapping[str, float | int | str | None]


@dataclass(frozen=True)
class StageResult:
    """What a stage hands back. waiting: what it waits for, when it has not run to its end."""

    directory: Path
    summary: Summary
    waiting: str | None = None


@dataclass(frozen=True)
class Runtime:
    """What a stage needs to know of its run, beside the config. round counts from 1 to rounds."""

    run_dir: RunDir
    device: torch.device
    dtype: torch.dtype
    seed: int
    round: int
    rounds: int
    console: Console

    @property
    def main_process(self) -> bool:
        """Whether this process writes files and prints."""
        return is_main_process()

    def stage_dir(self, name: str) -> Path:
        """Directory of a stage in this round."""
        return self.run_dir.stage(name, self.round, self.rounds)

    def key(self, name: str) -> str:
        """Name of a stage of this round in the run's manifest."""
        return self.run_dir.key(name, self.round, self.rounds)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of each purpose's own, on the run's device: no use disturbs another."""
        digest = hashlib.sha256(f"{self.seed}:{self.round}:{purpose}".encode()).digest()
        generator = torch.Generator(self.device)
        return generator.manual_seed(int.from_bytes(digest[:7], "big"))


def make_runtime(config: Config, run_dir: RunDir, round: int | None = None) -> Runtime:
    """Chooses device and precision, seeds everything and sets the number of threads.

    round: None is the last one. Raises ValueError when the config asks for a device that is not
    there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=config.runtime.device == "cpu")  # makes the process group
    if config.runtime.threads is not None:
        torch.set_num_threads(config.runtime.threads)
    seed_everything(config.seed)
    device = choose_device(config.runtime)
    return Runtime(
        run_dir=run_dir,
        device=device,
        dtype=choose_dtype(config.runtime, device),
        seed=config.seed,
        round=config.rounds if round is None else round,
        rounds=config.rounds,
        console=Console(quiet=not is_main_process()),
    )


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def world_size() -> int:
    return dist.get_world_size() if _grouped() else 1


def is_main_process() -> bool:
    return not _grouped() or dist.get_rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if _grouped():
        dist.barrier()


def all_sum(value: Tensor) -> Tensor:
    """value: any shape, the same on every process. Returns a new tensor: the sum over processes."""
    total = value.detach().clone()
    if _grouped():
        dist.all_reduce(total)
    return total


def broadcast(value: T) -> T:
    """The main process's value, on every process."""
    if not _grouped():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def choose_device(section: RuntimeSection) -> torch.device:
    """`auto`: an accelerator where there is one. Raises ValueError for one that is not there."""
    available = torch.cuda.is_available()
    if section.device == "cuda" and not available:
        raise ValueError(
            "runtime.device is cuda, but torch sees no CUDA device; check nvidia-smi and that "
            "torch is a CUDA build, or set runtime.device to cpu"
        )
    if section.device == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def choose_dtype(section: RuntimeSection, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the hardware computes in it, float32 on a CPU, where it is faster."""
    if section.precision != "auto":
        return DTYPES[section.precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
