"""`rlhf annotate`: people rank responses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("annotate")
def annotate(
    tasks: Annotated[
        Path, typer.Argument(metavar="TASKS", help="A collect folder, or one tasks file.")
    ],
    add_user: Annotated[
        str | None,
        typer.Option("--add-user", metavar="NAME", help="Make an account; asks for its password."),
    ] = None,
    auditor: Annotated[
        bool, typer.Option("--auditor", help="With --add-user: may accept and send back batches.")
    ] = False,
    export: Annotated[
        bool, typer.Option("--export", help="Write the rankings that there are, and exit.")
    ] = False,
    to_label_studio: Annotated[
        Path | None,
        typer.Option(
            "--to-label-studio",
            metavar="FILE",
            help="Write the tasks as its JSON, and its interface.",
        ),
    ] = None,
    from_label_studio: Annotated[
        Path | None,
        typer.Option(
            "--from-label-studio", metavar="FILE", help="Write rankings from its JSON or JSON_MIN."
        ),
    ] = None,
    overlap: Annotated[
        int, typer.Option("--overlap", min=1, help="Annotators that each task needs.")
    ] = 1,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="On 127.0.0.1; 0 takes a free one; without it the first free from 7860 on.",
        ),
    ] = None,
) -> None:
    """Have people rank responses, on a page that this machine alone can reach.

    The rankings are written beside the tasks when every task has its answers and, where there is
    an auditor, every batch its verdict.

    Examples:

        rlhf annotate runs/baichuan2_7b/collect --add-user ann

        rlhf annotate runs/baichuan2_7b/collect
    """
    from rlhf.apps.annotate.command import annotate as serve

    serve(
        tasks,
        new_user=add_user,
        auditor=auditor,
        export=export,
        to_label_studio=to_label_studio,
        from_label_studio=from_label_studio,
        overlap=overlap,
        port=port,
        ask_password=_ask_password,
        say=typer.echo,
    )


def _ask_password(prompt: str) -> str:
    """What is typed twice, unseen; without a terminal the first line of the input."""
    if not sys.stdin.isatty():
        try:
            line = sys.stdin.readline().rstrip("\r\n")
            line.encode()  # which some environments look at no sooner
            return line
        except UnicodeError:
            raise ValueError("the password is not UTF-8: convert it") from None
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=True))
