"""What a stage used, and with which versions: the facts of a manifest that are measured."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import rlhf

GIB = 1024**3
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed")


@dataclass(frozen=True)
class Usage:
    """seconds: of wall time. cpu_seconds: of all threads and finished children. peak_memory_gib: of
    the GPU when one was used, else of this process."""

    seconds: float
    cpu_seconds: float
    peak_memory_gib: float


class Meter:
    """Measures from its creation on, and adds what was used `earlier`."""

    def __init__(self, earlier: Usage) -> None:
        _reset_peak_memory()
        self._earlier = earlier
        self._wall = time.monotonic()
        self._cpu = _cpu_seconds()

    def read(self) -> Usage:
        return Usage(
            seconds=self._earlier.seconds + time.monotonic() - self._wall,
            cpu_seconds=self._earlier.cpu_seconds + _cpu_seconds() - self._cpu,
            peak_memory_gib=max(self._earlier.peak_memory_gib, _peak_memory() / GIB),
        )


def versions() -> dict[str, str]:
    """Versions of Python, of this project and its checkout, and of what it computes with."""
    found = {"python": platform.python_version(), "rlhf": rlhf.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = _commit(Path(__file__).resolve().parents[2])
    return found | ({"commit": commit} if commit else {})


def _commit(root: Path) -> str | None:
    """The checkout's commit, with "+" when files differ from it; None outside a checkout."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    answers = [
        subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True)
        for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    if any(answer.returncode for answer in answers):
        return None
    return answers[0].stdout.strip() + ("+" if answers[1].stdout.strip() else "")


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _reset_peak_memory() -> None:
    if _uses_cuda():
        torch.cuda.reset_peak_memory_stats()
    try:
        # Linux: 5 sets the peak back to what is in use now.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_memory() -> int:
    """Bytes."""
    if _uses_cuda():
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
