"""Who holds a file: a process that writes itself down, and may be gone without having said so."""

from __future__ import annotations

import os
import re
import socket

_HOLDER = re.compile(r"process (\d+) on (\S+)")


def this_process() -> str:
    """As it is written into a file, and told to people: process 7 on host."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def is_there(holder: str) -> bool:
    """Whether the process that wrote this is there; one on another host is thought to be."""
    found = _HOLDER.match(holder)
    if found is None:
        return False
    if found[2] != socket.gethostname():
        return True
    try:
        os.kill(int(found[1]), 0)  # asks whether it is there, and does nothing to it
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
