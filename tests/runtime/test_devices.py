from __future__ import annotations

import ctypes
import sys

import pytest

from rlhf.runtime.devices import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory


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
