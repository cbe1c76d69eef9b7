"""`rlhf lineage`: where a model comes from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

FILE_WIDTH = 200
"""Characters of a line that does not go to a terminal."""


@app.command("lineage")
def lineage(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model that a run made, or another result.")
    ],
) -> None:
    """Print the chain from base weights to a model: stages, configs, data, hashes.

    It follows the manifests, across runs too; what is gone or has changed since is marked.

    Example: rlhf lineage runs/tiny/ppo/actor
    """
    from rich.console import Console

    from rlhf.apps.lineage import tree

    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(tree(model))
