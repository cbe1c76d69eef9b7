"""How the processes that a launcher has started come together, and part."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from rlhf.runtime.watchdog import Watchdog

_watching: list[Watchdog] = []
EARLY = 0.8
"""Of the time that a process waits for others: when the watchdog says who keeps them waiting."""


def join(backend: str, timeout: timedelta) -> None:
    """Meet the other processes, and keep watch that all go on.

    Raises RuntimeError, with the place to meet, when they are not all there in time.
    """
    try:
        dist.init_process_group(backend, timeout=timeout)
    except dist.DistError:
        names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
        host, port, size, rank = (os.environ.get(name, "?") for name in names)
        raise RuntimeError(
            f"process {rank} has waited {timeout.total_seconds():.0f} s at {host}:{port} for all "
            f"{size} processes; start that many, on hosts that reach this address, or raise "
            "runtime.timeout"
        ) from None
    watchdog = Watchdog(EARLY * timeout.total_seconds(), _get_default_store())
    watchdog.start()
    _watching.append(watchdog)


def leave() -> None:
    """Part, at the end of a run."""
    while _watching:
        _watching.pop().end()
    dist.destroy_process_group()
