"""Bad lines of a file: told by their reasons, and `--strict` makes them an error at the end."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

if TYPE_CHECKING:
    from rlhf.data.jsonl import Rejection

Strict = Annotated[bool, typer.Option("--strict", help="Exit with 2 when any line was bad.")]

REASONS_SHOWN = 5  # the first ones met: no more are kept, however many lines are bad


class BadLines:
    """Counts the bad lines that it is told of; at the end of a `with` it prints their reasons, each
    with its first line, also where the file was refused for them."""

    def __init__(self) -> None:
        self.count = 0
        self._first: dict[str, Rejection] = {}
        self._lines: Counter[str] = Counter()

    def __call__(self, rejection: Rejection) -> None:
        self.count += 1
        if rejection.reason in self._first or len(self._first) < REASONS_SHOWN:
            self._first.setdefault(rejection.reason, rejection)
            self._lines[rejection.reason] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for reason, rejection in self._first.items():
            more = self._lines[reason] - 1
            typer.echo(f"{rejection}{f' (and {more} more lines so)' * bool(more)}", err=True)
        if others := self.count - self._lines.total():
            typer.echo(f"and {others} bad lines for other reasons", err=True)

    def close(self, strict: bool) -> None:
        """Says how many there were; with `strict` and any the command ends with exit code 2."""
        if self.count:
            typer.echo(f"{self.count} bad lines left out", err=True)
            if strict:
                raise typer.Exit(2)
