"""Ctrl-C and SIGTERM: what they do, and kept until a loop can stop without losing work."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)
Handler = Callable[[int, FrameType | None], None]

IMPORTING = "<frozen importlib._bootstrap>"
MOMENT = 1.0
"""Seconds within which a signal comes but once: `timeout` sends its to a process and its group."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it is taken as Ctrl-C is."""


def end_or_raise(number: int, frame: FrameType | None) -> None:
    """Handles a signal: within an import the process ends with a line, elsewhere it is raised.

    Libraries that import lazily take an exception for a module that is not there, and some go on
    without it.
    """
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            if os.environ.get("RANK", "0") == "0":  # of several processes one says it
                os.write(2, b"rlhf: interrupted\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise _raised_by(number)


def once_a_moment(handler: Handler) -> Handler:
    """The handler, without the signals that come right behind another."""
    last = -MOMENT

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= MOMENT:
            handler(number, frame)

    return handle


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """In here SIGTERM, which ends a process without a word, does what Ctrl-C does.

    Not where it is ignored or handled, nor in one of several processes (RANK is set): the launcher
    ends them by it, once one has failed, and it is the launcher that tells them to stop.
    """
    alone = "RANK" not in os.environ and _in_main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, once_a_moment(end_or_raise))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def held_interrupt(unit: str) -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, for the loop to look at; a second one interrupts at once.

    So does SIGTERM where it is taken as Ctrl-C; what the loop raises is Terminated then.
    unit: what the loop finishes first, as the message names it. In another thread than the main
    one, where signals do not arrive, the event is never set.
    """
    asked, by = threading.Event(), signal.SIGINT

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal by
        if asked.is_set():
            raise _raised_by(number)
        asked.set()
        by = signal.Signals(number)
        again = "Ctrl-C" if by == signal.SIGINT else by.name
        logger.warning("stopping after this %s; %s again stops at once", unit, again)

    if not _in_main_thread():
        yield asked
        return
    before = {signal.SIGINT: signal.signal(signal.SIGINT, note)}
    if callable(signal.getsignal(signal.SIGTERM)):
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, once_a_moment(note))
    try:
        yield asked
    except KeyboardInterrupt:
        if by == signal.SIGTERM:
            raise Terminated from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raised_by(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
