"""`python -m rlhf` is the same as `rlhf`."""

from __future__ import annotations

import os
import signal
from types import FrameType

IMPORTING = "<frozen importlib._bootstrap>"


def main() -> None:
    """Entry point. What takes time to import is imported once Ctrl-C has its answer."""
    end_within_imports()
    from rlhf.cli import main as answer

    answer()


def end_within_imports() -> None:
    """From now on Ctrl-C during an import ends the process with a line; otherwise it is the
    KeyboardInterrupt that it was.

    Libraries that import lazily take an interrupt for a module that is not there, and some go on
    without it. Where Ctrl-C is ignored, as in a shell's background, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_or_raise)


def _end_or_raise(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            if os.environ.get("RANK", "0") == "0":  # of several processes one says it
                os.write(2, b"rlhf: interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
