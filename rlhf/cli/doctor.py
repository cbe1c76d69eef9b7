"""`rlhf doctor`: what a run needs, checked before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf.cli.stages import Overrides

app = typer.Typer()

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "fault": typer.colors.RED}


@app.command("doctor")
def doctor(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG|MODEL_DIR]", help="What to check beside the machine."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Check packages, GPU, checkpoints with their hashes, tokenizers, data and disk space.

    A line a check: ok, warning or fault, with how to mend it. Exit code 2 when there is a fault.

    Examples:

        rlhf doctor

        rlhf doctor configs/baichuan2_7b.yaml

        rlhf doctor configs/baichuan2_7b.yaml --set data.sft=data/more.jsonl

        rlhf doctor weights/Baichuan2-7B-Base
    """
    from rlhf.apps.doctor.command import doctor as examine

    faults = 0
    for level, subject, message in examine(target, overrides or []):
        faults += level == "fault"
        typer.echo(f"{typer.style(f'{level:8}', fg=COLOURS[level])} {subject}: {message}")
    if faults:
        typer.echo(f"{faults} fault{'s' * (faults > 1)} to mend first", err=True)
        raise typer.Exit(2)
