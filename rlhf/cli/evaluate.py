"""`rlhf evaluate`: the stage alone, and reward models by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from rlhf.cli.stages import stage_command

if TYPE_CHECKING:
    from rich.table import Table

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


@app.command("policy")
def policy(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    policies: Annotated[
        list[Path] | None,
        typer.Option("--policy", metavar="DIR", help="A further policy; may be given repeatedly."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="JUDGE",
            help="rubric, a reward model's directory, or the base URL of an OpenAI-compatible "
            "endpoint. Without it: the judge of the run's own evaluation.",
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", metavar="NAME", help="The endpoint's model.")
    ] = None,
    judge_key: Annotated[
        str | None,
        typer.Option(
            "--judge-key", metavar="VARIABLE", help="Environment variable with its API key."
        ),
    ] = None,
    prompts: Annotated[
        int | None, typer.Option("--prompts", min=1, help="How many held-out prompts.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The report; RUN/evaluate/report without it."),
    ] = None,
) -> None:
    """A run's policies against its SFT model: win, tie, lose by kind of prompt and at equal length,
    KL and over-optimisation, answers side by side.

    Examples:

        rlhf evaluate policy runs/tiny

        rlhf evaluate policy runs/a --policy runs/b/ppo/actor --judge https://api.example.com/v1
        --judge-model judge-large --judge-key API_KEY
    """
    from rich.console import Console

    from rlhf.apps.evaluate_policy import JudgeChoice, evaluate_policy
    from rlhf.evaluation.policy_report import lines

    choice = JudgeChoice(judge, judge_model, judge_key)
    try:
        folder, report = evaluate_policy(run, policies or [], choice, prompts, out)
    except KeyboardInterrupt as error:
        error.add_note("the same command goes on, with the answers kept so far")
        raise
    typer.echo(f"judge: {report['judge']}")
    table = _table("against SFT", "win - lose", "win rate", "at equal length", "KL, nats")
    for line in lines(report):
        table.add_row(*line)
    Console().print(table)
    typer.echo(f"report: {folder / 'index.html'}")


@app.command("compare")
def compare(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Runs, or reward models' directories.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="For the page, its plots, CSV and JSON.")
    ] = Path("runs/comparison"),
) -> None:
    """Several reward models side by side, with 95 % intervals.

    Example: rlhf evaluate compare runs/tiny runs/pairwise
    """
    from rich.console import Console

    from rlhf.evaluation import compare as comparing

    comparison = comparing.compare(directories)
    comparing.write(comparison, out)
    table = _table("", *(row["model"] for row in comparison.table))
    for line in comparing.lines(comparison.table):
        table.add_row(*line)
    console = Console()
    console.print(table)
    if not comparison.same_pairs:
        console.print("Not tested on the same held-out pairs, which may be what differs.")
    typer.echo(f"written: {out / 'index.html'}, comparison.csv, comparison.json")


@app.command("best-of-n")
def best_of_n(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="DIR", help="Whose answers; without it the SFT model's."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Answers a prompt.")] = 64,
    prompts: Annotated[
        int, typer.Option("--prompts", min=1, help="How many held-out prompts.")
    ] = 100,
) -> None:
    """What the judge thinks of the answer that the reward model likes best among n.

    The curve over n = 1, 2, 4, ... and its KL lands in the reward model's report.

    Example: rlhf evaluate best-of-n runs/tiny
    """
    from rich.console import Console

    from rlhf.apps.best_of_n import sample

    folder, curve = sample(run, policy, samples, prompts)
    table = _table("n", "KL, nats", "score of the best", "judge's quality of it")
    for row in curve:
        values = (row["kl"], row["score"], row["quality"])
        table.add_row(str(row["n"]), *(f"{value:.2f}" for value in values))
    Console().print(table)
    typer.echo(f"report: {folder / 'index.html'}")


def _table(*headings: str) -> Table:
    """On a narrow terminal its words are folded; rich cuts them off, and ends tell paths apart."""
    from rich.table import Column, Table

    return Table(*(Column(heading, overflow="fold") for heading in headings))
