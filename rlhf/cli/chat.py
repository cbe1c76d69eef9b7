"""`rlhf chat`: a conversation with a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("chat")
def chat(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint or an adapter.")],
    load_in: Annotated[
        str | None, typer.Option("--load-in", help="4bit or 8bit, by bitsandbytes.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="A PEFT LoRA adapter over MODEL.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            metavar="TEXT",
            help='The system message; "" is none, or the default of an imported chat format.',
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="NAME", help="For MOSS: calculator, equation-solver, ..."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the most likely token.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="0 is off.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="1 is off.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(min=0.1, help="1 is off.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Gives the same answers again.")] = None,
) -> None:
    """Talk to a model; a question a line. How it samples comes from its generation_config.json.

    Examples:

        rlhf chat weights/Baichuan2-7B-Chat --load-in 4bit

        rlhf chat weights/moss-moon-003-sft-plugin --plugin calculator --plugin equation-solver
    """
    from rlhf.apps.chat.command import Sampling
    from rlhf.apps.chat.command import chat as talk

    talk(
        model,
        load_in=load_in,
        adapter=adapter,
        system=system,
        plugin_names=plugin or [],
        sampling=Sampling(temperature, top_k, top_p, repetition_penalty, max_new_tokens),
        seed=seed,
    )
