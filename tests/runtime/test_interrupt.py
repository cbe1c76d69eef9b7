from __future__ import annotations

import signal
import threading

import pytest

from rlhf.runtime.interrupt import held_interrupt


def test_the_first_interrupt_waits_and_the_second_does_not(caplog):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), held_interrupt("iteration") as interrupted:
        assert not interrupted.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
        assert "stopping after this iteration; Ctrl-C again stops at once" in caplog.text
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_not_signalled():
    seen = []

    def work() -> None:
        with held_interrupt("iteration") as interrupted:
            seen.append(interrupted.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
