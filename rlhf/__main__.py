"""`python -m rlhf` is the same as `rlhf`."""

from __future__ import annotations

import signal

from rlhf.runtime.interrupt import end_or_raise


def main() -> None:
    """Entry point. What takes time to import is imported once Ctrl-C has its answer."""
    end_within_imports()
    from rlhf.cli import main as answer

    answer()


def end_within_imports() -> None:
    """From now on Ctrl-C during an import ends the process with a line; otherwise it is the
    KeyboardInterrupt that it was.

    Where Ctrl-C is ignored, as in a shell's background, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_or_raise)


if __name__ == "__main__":
    main()
