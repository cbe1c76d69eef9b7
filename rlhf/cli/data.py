"""`rlhf data`: others' formats, checks, descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf.cli.bad_lines import BadLines, Strict
from rlhf.cli.taxonomy import TaxonomyFile
from rlhf.cli.taxonomy import app as taxonomy_app

app = typer.Typer(no_args_is_help=True, help="Convert, check and describe data.")
app.add_typer(taxonomy_app, name="taxonomy")

REASONS_SHOWN = 5  # of a conversion's; all are in rejected.jsonl


@app.command("convert")
def convert(
    source: Annotated[
        str,
        typer.Option(
            "--in",
            help="A file or folder of JSON or CSV (.gz too), or Parquet; or user/name[:split] on "
            "the hub.",
        ),
    ],
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

    Example: rlhf data convert --from hh-rlhf --in Anthropic/hh-rlhf:test --out data/hh
    """
    from rlhf.data.formats import convert as convert_data

    report = convert_data(format, source, out)
    typer.echo(f"{report.records} records, {report.rejected} rejected -> {out}")
    shown = list(report.reasons.items())[:REASONS_SHOWN]
    for reason, count in shown:
        typer.echo(f"  {count} rejected, first at {report.first[reason]}: {reason}")
    if len(report.reasons) > len(shown):
        typer.echo(f"  and for {len(report.reasons) - len(shown)} other reasons")
    if report.ignored:
        typer.echo(
            "not read, being no data, or no JSON, CSV, TSV, Parquet or Arrow: "
            f"{', '.join(report.ignored)}"
        )
    if report.no_family:
        typer.echo(
            f"{report.no_family} responses are of no known family, which a reward model refuses to "
            "learn from: set rm.data.off_family to allow"
        )
    if not report.records:
        raise ValueError(
            f"{source}: no row of it is {format}: give --from the format that it has, or mend what "
            f"{out / 'rejected.jsonl'} names"
        )
    if strict and report.rejected:
        raise typer.Exit(2)


@app.command("curate")
def curate(
    sft: Annotated[Path, typer.Argument(help="Demonstrations with annotator and batch, JSONL.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for what is kept, dropped, reported.")],
    audits: Annotated[
        Path | None, typer.Option("--audits", help="Verdicts, JSONL of {id, acceptable, label}.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Audited demonstrations a batch.")] = 20,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least lower bound of an accepted batch.")
    ] = 0.6,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Confidence of the Wilson interval.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Chooses the sample.")] = 0,
    strict: Strict = False,
) -> None:
    """Accept or send back crowd work by batches, after an audit of a sample.

    While verdicts are missing, sample.jsonl holds the demonstrations to judge; with all of them
    given, kept.jsonl, dropped.jsonl (with reasons) and report.json are written.

    Example: rlhf data curate sft.jsonl --audits audits.jsonl --out curated
    """
    from rich.console import Console

    from rlhf.config.schema import CurationSection
    from rlhf.data.curation_files import curate_files, table

    settings = CurationSection(sample=sample, threshold=threshold, confidence=confidence)
    with BadLines() as bad:
        outcome = curate_files(sft, audits, out, settings, seed, bad)
    if isinstance(outcome, list):
        typer.echo(
            f"{len(outcome)} demonstrations wait for a verdict -> {out / 'sample.jsonl'}; add "
            '{"id": ..., "acceptable": true} for each to the audits, then the same command again'
        )
    else:
        Console().print(table(*outcome))
        typer.echo(f"kept.jsonl, dropped.jsonl, report.json -> {out}")
    bad.close(strict)


@app.command("validate")
def validate(
    file: Annotated[Path, typer.Argument(help="Records, JSONL or .jsonl.gz.")],
    kind: Annotated[str, typer.Option("--as", help="sft, prompt, ranking or text.")],
    rejected: Annotated[
        Path | None,
        typer.Option("--rejected", help="File for all bad lines; else reasons are printed."),
    ] = None,
    taxonomy: TaxonomyFile = None,
    strict: Strict = False,
) -> None:
    """Check every line of a file: JSON, fields, categories, ranks, grades, ids.

    Example: rlhf data validate rankings.jsonl --as ranking --rejected rejected.jsonl --strict
    """
    from rlhf.config.paths import resource
    from rlhf.data.jsonl import whole_files
    from rlhf.data.taxonomy import Taxonomy
    from rlhf.data.validate import none_of
    from rlhf.data.validate import validate as validate_file

    if rejected is not None and rejected.resolve() == file.resolve():
        raise ValueError(f"{rejected}: would be overwritten; give --rejected another name")
    categories = Taxonomy.load(taxonomy or resource("data_schemas/taxonomy.yaml"))
    with BadLines() as bad, whole_files(*([rejected] if rejected else [])) as streams:
        tell = bad if not streams else lambda found: streams[0].write(found.to_json())
        counts = validate_file(file, kind, categories, tell)
    typer.echo(f"{counts.good} good, {counts.bad} bad")
    if not counts.good:
        raise none_of(file, kind)
    if strict and counts.bad:
        raise typer.Exit(2)


@app.command("dedup")
def dedup(
    files: Annotated[
        list[Path], typer.Argument(help="JSONL of records of any kind, or of {'text': ...}.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for kept.jsonl, dropped.jsonl, ...")],
    threshold: Annotated[
        float, typer.Option("--threshold", help="Jaccard index from which texts are duplicates.")
    ] = 0.8,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Held-out file that must share nothing; repeatable."),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Also compare meanings: a sentence-transformers model's folder, or an .npy with a "
            "vector a document."
        ),
    ] = None,
    cosine: Annotated[
        float,
        typer.Option(min=0, max=1, help="With --embeddings: cosine over which texts are the same."),
    ] = 0.95,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Only report near-duplicates of held-out texts.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 when any line was rejected.")
    ] = False,
) -> None:
    """Drop exact and near duplicates, and find training texts that are held out as well.

    Example: rlhf data dedup sft.jsonl --out deduped --against sft_eval.jsonl

    Example: rlhf data dedup sft.jsonl --out deduped --embeddings models/bge-small-zh
    """
    from rlhf.data.dedup.files import dedup_files
    from rlhf.data.dedup.vectors import DocumentVectors

    vectors = DocumentVectors(embeddings, cosine) if embeddings else None
    report = dedup_files(files, out, threshold, against or (), vectors)
    typer.echo(
        f"{report.kept} of {report.documents} documents kept, {report.rejected} lines rejected; "
        f"{report.leaked} of {report.held_out} held-out documents leaked -> {out}"
    )
    if report.repeated_ids:
        typer.echo(
            f"{report.repeated_ids} documents in {out / 'kept.jsonl'} have the id of an earlier "
            "one, which no run takes: give each its own"
        )
    if report.leaked and not allow_leakage:
        raise ValueError(
            f"{report.leaked} held-out documents are near-duplicates of documents to train on; see "
            f"{out / 'leaked.jsonl'}, remove them, or pass --allow-leakage"
        )
    if strict and report.rejected:
        raise typer.Exit(2)
