from __future__ import annotations

import signal
import threading

import pytest

from rlhf.runtime import interrupt
from rlhf.runtime.interrupt import Terminated, held_interrupt, terminated_as_interrupted


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


def test_sigterm_is_taken_as_an_interrupt_and_named_as_what_it_is(caplog):
    with pytest.raises(Terminated), terminated_as_interrupted():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Terminated), terminated_as_interrupted():  # as the loop raises it
        with held_interrupt("step") as interrupted:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # the same one, as `timeout` sends it
            assert interrupted.is_set()
            assert "stopping after this step; SIGTERM again stops at once" in caplog.text
            raise KeyboardInterrupt
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_later_sigterm_does_not_wait(monkeypatch):
    monkeypatch.setattr(interrupt, "MOMENT", 0.0)
    with terminated_as_interrupted(), pytest.raises(Terminated), held_interrupt("step"):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


def test_one_of_several_processes_is_still_ended_by_sigterm(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with terminated_as_interrupted(), held_interrupt("step"):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
