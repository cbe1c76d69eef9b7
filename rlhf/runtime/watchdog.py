"""Says what every process is at, when one of them keeps the others waiting."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

COLLECTIVES = ("torch/distributed/", "deepspeed/comm/")
"""Where the functions are defined that wait for other processes."""
_PACKAGE = Path(__file__).resolve().parents[1]
OURS = (f"{_PACKAGE}/", f"{_PACKAGE.with_name('stages')}/")


class Watchdog(threading.Thread):
    """Looks at where this process's main thread stands, and tells the others through the store.

    When it has not moved for `patience` seconds, the first process of which that is true says of
    each one in which collective it waits, or where else it is, and for how long.
    """

    def __init__(
        self, patience: float, store: Store, tell: Callable[[str], None] | None = None
    ) -> None:
        """store: one that all processes have. tell: prints on stderr when None."""
        super().__init__(daemon=True, name="watchdog")
        self._patience, self._store = patience, PrefixStore("watchdog", store)
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._tell = tell or (lambda line: print(f"rlhf: {line}", file=sys.stderr, flush=True))
        self._main = threading.main_thread().ident
        self._ended = threading.Event()
        self._at: list[tuple[int, int]] = []
        self._since, self._told = time.monotonic(), False

    def run(self) -> None:
        """Until `end`, or until the store is gone with the process that keeps it."""
        try:
            while not self._ended.wait(min(10.0, self._patience / 8)):
                self._look()
        except dist.DistError:
            return

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join()

    def _look(self) -> None:
        top = sys._current_frames().get(self._main or 0)
        at = [(id(frame.f_code), frame.f_lasti) for frame in _frames(top)]
        if at != self._at:
            self._at, self._since, self._told = at, time.monotonic(), False
        still = time.monotonic() - self._since
        self._store.set(str(self._rank), json.dumps([place(top), still, time.time()]))
        if still >= self._patience and not self._told:
            self._told = True
            self._report()

    def _report(self) -> None:
        """Unless a process before this one does."""
        keys = [str(rank) for rank in range(self._size) if self._store.check([str(rank)])]
        found = {int(key): json.loads(self._store.get(key)) for key in keys}
        if any(found[rank][1] >= self._patience for rank in found if rank < self._rank):
            return
        lines = [f"process {rank} {_told(*state)}" for rank, state in found.items()]
        lost = [f"process {rank} has not come" for rank in range(self._size) if rank not in found]
        self._tell("processes wait for one another: " + "; ".join([*lines, *lost]))


def place(top: FrameType | None) -> str:
    """Where a thread stands: the collective, if it is in one, and the nearest line of ours."""
    frames = _frames(top)
    waits = [f.f_code for f in frames if any(part in f.f_code.co_filename for part in COLLECTIVES)]
    named = [code.co_name for code in waits if not code.co_name.endswith("wrapper")]
    ours = [frame for frame in frames if frame.f_code.co_filename.startswith(OURS)]
    inside = f"in {named[-1]} " if named else ""
    if not ours and not frames:
        return "at its end"
    nearest = (ours or frames)[0]
    file = "/".join(Path(nearest.f_code.co_filename).parts[-3:])
    return f"{inside}at {file}:{nearest.f_lineno} ({nearest.f_code.co_name})"


def _frames(top: FrameType | None) -> list[FrameType]:
    """From the innermost on."""
    found = []
    while top is not None:
        found.append(top)
        top = top.f_back
    return found


def _told(where: str, still: float, heard: float) -> str:
    silence = time.time() - heard
    if silence > max(30.0, still):
        return f"was {where}, and has said nothing for {silence:.0f} s"
    return f"is {where} for {still:.0f} s"
