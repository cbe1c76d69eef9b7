"""`rlhf export`, `rlhf import-llama` and `rlhf prune`: a checkpoint from another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
NEW = "A directory that is not there yet, or empty."


@app.command("export")
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint or an adapter.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help=NEW)],
    layout: Annotated[str, typer.Option("--to", help="native, llama or official.")] = "native",
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="A PEFT LoRA adapter to merge into MODEL.")
    ] = None,
) -> None:
    """Merge adapters, and write the model natively, as Llama (RoPE models), or as the official
    checkpoints are laid out.

    Example: rlhf export runs/baichuan2_7b/ppo/actor served --to llama
    """
    from rlhf.apps.export import export as export_model

    export_model(model, out, layout, adapter)
    typer.echo(f"{model} -> {out} ({layout})")


@app.command("import-llama")
def import_llama(
    source: Annotated[Path, typer.Argument(metavar="LLAMA", help="A directory or a GGUF file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help=NEW)],
) -> None:
    """Re-lay a Llama checkpoint exactly as Baichuan-7B is laid out.

    Example: rlhf import-llama SmolLM2-135M-Instruct.gguf --out weights/smollm2_135m
    """
    from rlhf.apps.export import import_llama as import_model

    import_model(source, out)
    typer.echo(f"{source} -> {out} (baichuan-7b)")


@app.command("prune")
def prune(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A Baichuan checkpoint.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help=NEW)],
    layers: Annotated[int, typer.Option("--layers", min=1, help="How many blocks remain.")],
    data: Annotated[
        Path, typer.Option("--data", help="Demonstrations to measure on, JSONL; 64 are read.")
    ],
) -> None:
    """A smaller member of the family: the run of blocks that changes the hidden states least goes.

    What is left needs a short training, such as rlhf sft, before it speaks well again.

    Example: rlhf prune weights/smollm2_135m --layers 20 --data data/smollm2/sft.jsonl --out
    weights/smollm2_100m_pruned
    """
    from rlhf.apps.prune import prune as prune_model

    first, last, distance = prune_model(model, layers, data, out)
    typer.echo(
        f"{model} -> {out}: blocks {first} to {last} taken out, angular distance {distance:.3f}"
    )
