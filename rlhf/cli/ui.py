"""`rlhf ui`: a page to watch runs with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("ui")
def ui(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories, or folders of them.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="0.0.0.0 lets other machines in; needs a password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="0 takes a free one; without it the first free from 7860 on.",
        ),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option("--password", envvar="RLHF_UI_PASSWORD", help="To sign in with, as rlhf."),
    ] = None,
) -> None:
    """Watch runs on a page that this machine alone can reach: stages, live curves, samples, alarms,
    reports, runs side by side, and a chat with their models.

    Examples:

        rlhf ui runs/baichuan2_7b

        rlhf ui runs --port 7870
    """
    named = ", ".join(map(str, runs))
    typer.echo(f"opening a page on {named}; its address follows in some seconds", err=True)
    from rlhf.apps.dashboard.command import ui as serve

    serve(runs, host=host, port=port, password=password, say=typer.echo)
