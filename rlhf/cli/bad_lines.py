"""Bad lines of a file: each is printed, and `--strict` makes them an error at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rlhf.data.jsonl import Rejection

Strict = Annotated[bool, typer.Option("--strict", help="Exit with 2 when any line was bad.")]


class BadLines:
    """Prints the bad lines that it is told of, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, rejection: Rejection) -> None:
        typer.echo(rejection, err=True)
        self.count += 1

    def close(self, strict: bool) -> None:
        """Says how many there were; with `strict` and any the command ends with exit code 2."""
        if self.count:
            typer.echo(f"{self.count} bad lines left out", err=True)
            if strict:
                raise typer.Exit(2)
