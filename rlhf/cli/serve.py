"""`rlhf serve`: a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("serve")
def serve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint or an adapter.")],
    load_in: Annotated[
        str | None, typer.Option("--load-in", help="4bit or 8bit, by bitsandbytes.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="A PEFT LoRA adapter over MODEL.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What requests call it; its directory's name.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="0.0.0.0 lets other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="RLHF_API_KEY", help="One is made if none is given."),
    ] = None,
    no_api_key: Annotated[
        bool, typer.Option("--no-api-key", help="Ask for none; on this machine only.")
    ] = False,
) -> None:
    """Answer OpenAI's /v1/chat/completions and /v1/completions with one model, until Ctrl-C.

    How it samples comes from its generation_config.json, and from each request.

    Examples:

        rlhf serve weights/Baichuan2-7B-Chat --load-in 4bit

        RLHF_API_KEY=secret rlhf serve runs/baichuan2_7b/ppo/actor --port 8080
    """
    from rlhf.apps.serve.command import Door
    from rlhf.apps.serve.command import serve as answer

    door = Door(host, port, api_key, keyless=no_api_key)
    answer(model, door, typer.echo, adapter=adapter, load_in=load_in, name=name)
