"""`rlhf ui`: the page on its port."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf.apps.dashboard.runs import find_runs
from rlhf.apps.local import free_port, is_loopback

SHORTEST = 8
FEW = 4


def ui(
    paths: Sequence[Path],
    *,
    host: str,
    port: int | None,
    password: str | None,
    say: Callable[[str], None],
) -> None:
    """Serve the page until interrupted.

    Args:
        paths: runs, and folders of runs. password: to sign in with; None lets everybody in.

    Raises:
        ValueError: no run, a host that others reach without a password, an address that is taken
            or not of this machine, or the extra `ui` is missing.
    """
    runs = find_runs(paths)
    if password is not None and len(password) < SHORTEST:
        raise ValueError(f"--password: too short; use at least {SHORTEST} characters")
    if password is None and not is_loopback(host):
        raise ValueError(
            f"--host {host}: others could look in and use the models; set a password in "
            "RLHF_UI_PASSWORD, or leave --host out and reach the page through ssh -L"
        )
    # Gradio would try a hundred ports, whatever the matter is.
    found = free_port(host, port or 0)
    try:
        from rlhf.apps.dashboard.page import launch
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "pandas", "starlette"):
            raise
        raise ValueError("the page needs gradio: pip install 'baichuan-rlhf[ui]'") from None
    try:
        application, address = launch(paths, host, None if port is None else found, password)
    except OSError:
        taken = "all ports from 7860 to 7959 are" if port is None else f"port {found} is"
        raise ValueError(f"{taken} taken on {host}: give another with --port") from None
    names = ", ".join(run.name for run in runs) if len(runs) <= FEW else f"{len(runs)} runs"
    say(f"{address} shows {names}; stop with Ctrl-C, the runs go on by themselves")
    application.block_thread()
