"""The device and the type that a run computes in."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import torch

from rlhf.config.schema import RuntimeSection

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Settings of glibc's malloc, by the numbers of its malloc.h."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def threads_each(processes: int) -> int:
    """A process's part of the cores that this one may use, for as many processes of this host."""
    own: Any = getattr(os, "sched_getaffinity", None)  # Linux has it
    cores = len(own(0)) if own else os.cpu_count() or 1
    return max(1, cores // processes)


def choose_threads(section: RuntimeSection) -> int | None:
    """How many torch gets; None: what it has. torch's launcher gives each of several processes one,
    unless it is told a number, which is slow where weights are merged or an optimiser runs on the
    CPU."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    by_launcher = processes > 1 and os.environ.get("OMP_NUM_THREADS") == "1"
    return section.threads or (threads_each(processes) if by_launcher else None)


def choose_dtype(section: RuntimeSection, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the hardware computes in it, float32 on a CPU, where it is faster."""
    if section.precision != "auto":
        return DTYPES[section.precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def keep_freed_memory() -> bool:
    """From now on memory that tensors on the CPU gave back stays with the process, as a GPU's does.

    Pages that go back to the kernel come again filled with zeros: work for every large tensor of
    every step. Only glibc has the setting; returns whether it was made.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)
