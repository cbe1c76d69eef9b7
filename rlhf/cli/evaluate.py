"""`rlhf evaluate`: the stage alone, and reward models by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from rlhf.cli.stages import stage_command

STAGE = "stage"


class StageByDefault(TyperGroup):
    """`rlhf evaluate CONFIG` is `rlhf evaluate stage CONFIG`, as `rlhf sft CONFIG` is for SFT."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        named = not args or args[0] in self.commands or args[0] in self.get_help_option_names(ctx)
        return super().parse_args(ctx, args if named else [STAGE, *args])


app = typer.Typer(
    cls=StageByDefault,
    no_args_is_help=True,
    help="Judge the policy on held-out prompts and write the report; compare reward models.\n\n"
    "`rlhf evaluate CONFIG` runs the stage alone, as `rlhf evaluate stage CONFIG` does.\n\n"
    "Example: rlhf evaluate configs/tiny.yaml",
)

app.command(
    STAGE,
    help="Judge the policy on held-out prompts and write the run's report.\n\n"
    "Example: rlhf evaluate configs/tiny.yaml",
)(stage_command("evaluate"))


@app.command("rm")
def rm(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run, or a reward model's directory.")
    ],
) -> None:
    """Draw a reward model's report again, from its pairs.jsonl alone.

    It lands in report/ beside pairs.jsonl: the page, report.json, a CSV a table and a PNG a plot.

    Example: rlhf evaluate rm runs/tiny
    """
    from rlhf.evaluation.page import percent
    from rlhf.evaluation.rm_report import write

    folder, report = write(directory)
    for sentence in report["not_given"]:
        typer.echo(f"not given: {sentence}")
    typer.echo(f"accuracy {percent(report['accuracy'])} on {report['pairs']} held-out pairs")
    typer.echo(f"report: {folder / 'index.html'}")


@app.command("compare")
def compare(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Runs, or reward models' directories.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="For comparison.csv and comparison.json.")
    ] = Path("runs/comparison"),
) -> None:
    """Several reward models side by side, with 95 % intervals.

    Example: rlhf evaluate compare runs/tiny runs/pairwise
    """
    from rich.console import Console
    from rich.table import Table

    from rlhf.evaluation import compare as comparing

    comparison = comparing.compare(directories)
    comparing.write(comparison, out)
    table = Table("", *(row["model"] for row in comparison.table))
    for line in comparing.lines(comparison.table):
        table.add_row(*line)
    console = Console()
    console.print(table)
    if not comparison.same_pairs:
        console.print("Not tested on the same held-out pairs, which may be what differs.")
    typer.echo(f"written: {out / 'comparison.csv'}")
