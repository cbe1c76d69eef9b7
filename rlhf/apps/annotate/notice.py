"""Where the tasks of a folder are being ranked: a note in it, for `rlhf ui` to lead there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

from rlhf.runtime.files import write_text
from rlhf.runtime.holder import is_there, this_process

NOTE = ".annotation-page"


@contextmanager
def noted(folder: Path, address: str) -> Iterator[None]:
    """The folder says where its page is, while there is one."""
    write_text(folder / NOTE, f"{this_process()} at {address}")
    try:
        yield
    finally:
        (folder / NOTE).unlink(missing_ok=True)


def address_of(folder: Path) -> str | None:
    """Of the page that ranks this folder's tasks; None without one, also after a crash."""
    try:
        holder, _, address = (folder / NOTE).read_text("utf-8").partition(" at ")
    except (OSError, ValueError):
        return None
    here = holder.endswith(f" on {gethostname()}")  # 127.0.0.1 is another machine elsewhere
    return address if here and is_there(holder) and address.startswith("http://") else None
