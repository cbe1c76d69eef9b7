"""`rlhf data`: others' formats, checks, descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Convert, check and describe data.")


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Option("--in", help="A file or a folder; .gz is read as it is.")],
    format: Annotated[
        str, typer.Option("--from", help="Its format, e.g. alpaca, sharegpt, hh-rlhf, moss-003.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for records.jsonl and rejected.jsonl.")
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 when any row was rejected.")
    ] = False,
) -> None:
    """Read others' formats: one source row gives one line in records.jsonl or rejected.jsonl.

    Example: rlhf data convert --from alpaca --in belle.json --out data/belle
    """
    from rlhf.data.formats import convert as convert_data

    report = convert_data(format, source, out)
    typer.echo(f"{report.records} records, {report.rejected} rejected -> {out}")
    if strict and report.rejected:
        raise typer.Exit(2)
