"""`rlhf plan`: memory and time of a run before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rlhf.cli.stages import ConfigPath, Overrides

app = typer.Typer()
WIDTH = 144
"""Of the table where no terminal says how wide it is."""


@app.command("plan")
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, help="Of all hosts, a process each.", show_default=True)
    ] = 1,
    memory: Annotated[
        float,
        typer.Option("--gpu-memory", min=1, max=1e6, help="GiB of each.", show_default=True),
    ] = 80.0,
    per_host: Annotated[
        int, typer.Option("--gpus-per-host", min=1, help="For --deepspeed.", show_default=True)
    ] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as JSON.")] = False,
    deepspeed: Annotated[
        Path | None,
        typer.Option(
            "--deepspeed",
            metavar="OUT.json",
            help="Decide how far the models have to be spread, and write that for DeepSpeed.",
        ),
    ] = None,
) -> None:
    """Memory of every phase of every stage, and time, before anything is started.

    No weights are needed: sizes come from config.json where a checkpoint is there, else from
    `architecture`. What does not fit comes with changes that would.

    Examples:

        rlhf plan configs/baichuan2_7b.yaml

        rlhf plan configs/baichuan2_7b.yaml --gpu-memory 24 --set sft.tuning.method=qlora

        rlhf plan configs/baichuan2_7b_full.yaml --gpus 8 --deepspeed zero.json
    """
    from rich.console import Console

    from rlhf.config.load import load_config

    loaded = load_config(config, overrides or [])  # before torch, so that a mistake is told at once
    from rlhf.apps import plan as planning

    if deepspeed is not None:
        decided = planning.write_deepspeed(
            loaded, deepspeed, gpus=gpus, gpu_memory=memory, per_host=per_host
        )
        typer.echo(planning.told(decided, deepspeed))
        return
    found = planning.plan_run(loaded, gpus=gpus, gpu_memory=memory)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    console = Console()
    planning.show(found, console if console.is_terminal else Console(width=WIDTH))
