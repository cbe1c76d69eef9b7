"""`python -m rlhf` is the same as `rlhf`."""

from __future__ import annotations

from rlhf.cli import main

if __name__ == "__main__":
    main()
