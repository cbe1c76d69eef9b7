"""What a check says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "fault"]


class Finding(NamedTuple):
    """fault: the run would fail; warning: it would be slower, or not as tested. Both say how to
    mend it."""

    level: Level
    subject: str
    message: str


def judged(subject: str, check: Callable[[], str]) -> Finding:
    """What `check` returns is fine; the ValueError that it raises is a fault, the mend in it."""
    try:
        return Finding("ok", subject, check())
    except ValueError as error:
        return Finding("fault", subject, str(error))
