"""`rlhf data taxonomy`: prompts and the categories they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf.cli.bad_lines import BadLines, Strict

app = typer.Typer(no_args_is_help=True, help="Prompts and the categories they lie in.")

TaxonomyFile = Annotated[
    Path | None, typer.Option("--taxonomy", help="Another taxonomy than the one that comes along.")
]


@app.command("coverage")
def coverage(
    prompts: Annotated[Path, typer.Argument(help="Prompt records, JSONL.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for coverage.json, .csv and .png.")
    ] = None,
    taxonomy: TaxonomyFile = None,
    strict: Strict = False,
) -> None:
    """Count the prompts in every category: gaps and imbalance at the three levels.

    Example: rlhf data taxonomy coverage prompts.jsonl --out coverage
    """
    from rich.console import Console

    from rlhf.config.paths import resource
    from rlhf.data.coverage_report import tables, write_coverage
    from rlhf.data.records import PromptRecord
    from rlhf.data.taxonomy import Taxonomy
    from rlhf.data.validate import good_records

    categories = Taxonomy.load(taxonomy or resource("data_schemas/taxonomy.yaml"))
    with BadLines() as bad:
        records = good_records(prompts, PromptRecord, bad)
        counted = categories.coverage(record.category for record in records)
    console = Console()
    for table in tables(counted, categories):
        console.print(table)
    if out is not None:
        write_coverage(counted, categories, out)
        typer.echo(f"coverage.json, coverage.csv, coverage.png -> {out}")
    bad.close(strict)


@app.command("tag")
def tag(
    prompts: Annotated[Path, typer.Argument(help="Prompt records, JSONL.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for tagged.jsonl, untagged.jsonl.")],
    embeddings: Annotated[
        Path | None, typer.Option(help="Folder of a sentence-transformers model: by meaning.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Confidence under which a person decides.")
    ] = 0.5,
    taxonomy: TaxonomyFile = None,
    strict: Strict = False,
) -> None:
    """Give each prompt without a category the nearest one, or leave it for a person.

    Example: rlhf data taxonomy tag prompts.jsonl --out tagged --threshold 0.7
    """
    from rlhf.config.paths import resource
    from rlhf.data.embeddings import Embedder
    from rlhf.data.tagging import Tagger, tag_file
    from rlhf.data.taxonomy import Taxonomy

    categories = Taxonomy.load(taxonomy or resource("data_schemas/taxonomy.yaml"))
    tagger = Tagger(categories, Embedder(embeddings) if embeddings else None)
    with BadLines() as bad:
        counts = tag_file(prompts, out, tagger, threshold, bad)
    typer.echo(
        f"{counts.tagged} prompts tagged, {counts.had} had a category -> {out / 'tagged.jsonl'}; "
        f"{counts.left} left for a person -> {out / 'untagged.jsonl'}"
    )
    bad.close(strict)
