from __future__ import annotations

import ctypes
import os
import sys

import pytest

from rlhf.config.schema import RuntimeSection
from rlhf.runtime.devices import (
    M_MMAP_MAX,
    M_TRIM_THRESHOLD,
    choose_threads,
    keep_freed_memory,
)


class _Libc:
    """A C library whose malloc takes settings, or refuses them."""

    def __init__(self, answer: int) -> None:
        self.answer, self.asked = answer, list[tuple[int, int]]()

    def mallopt(self, name: int, value: int) -> int:
        self.asked.append((name, value))
        return self.answer


@pytest.mark.parametrize("answer", [1, 0])
def test_freed_memory_is_kept_where_malloc_says_so(
    monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    libc = _Libc(answer)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    assert keep_freed_memory() is bool(answer)
    assert libc.asked[0] == (M_MMAP_MAX, 0)
    assert not answer or libc.asked[1][0] == M_TRIM_THRESHOLD


def test_without_the_setting_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("processes", "by_launcher", "asked", "expected"),
    [
        ("4", "1", None, 3),
        ("24", "1", None, 1),
        ("4", "1", 2, 2),
        ("4", "6", None, None),
        ("1", "1", None, None),
    ],
)
def test_processes_of_a_host_share_its_cores(
    monkeypatch: pytest.MonkeyPatch,
    processes: str,
    by_launcher: str,
    asked: int | None,
    expected: int | None,
) -> None:
    """Unless the config or the environment says how many threads each is to have."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setenv("OMP_NUM_THREADS", by_launcher)
    assert choose_threads(RuntimeSection(threads=asked)) == expected
