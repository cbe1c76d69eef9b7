"""Ctrl-C kept until a loop can stop without losing work."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def held_interrupt(unit: str) -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, for the loop to look at; a second one interrupts at once.

    unit: what the loop finishes first, as the message names it. In another thread than the main
    one, where signals do not arrive, the event is never set.
    """
    asked = threading.Event()

    def note(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        logger.warning("stopping after this %s; Ctrl-C again stops at once", unit)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
