"""`rlhf`: the command line. Commands import what they need, so that `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="rlhf",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RLHF for the Baichuan family: SFT, reward model, PPO.",
)
data_app = typer.Typer(no_args_is_help=True, help="Convert, check and describe data.")
app.add_typer(data_app, name="data")

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/tiny.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key, e.g. --set ppo.kl.initial=0.1"
    ),
]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="The same config with tiny models and demo data, on CPU in minutes."
    ),
]
Redo = Annotated[
    str | None, typer.Option("--redo", metavar="STAGE", help="Start this stage afresh.")
]


@app.command()
def run(
    config: ConfigPath,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="STAGE", help="Go on from this stage: sft collect rm ppo evaluate"
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="STAGE", help="Run this stage alone.")
    ] = None,
    redo: Redo = None,
    overrides: Overrides = None,
    rehearse: Rehearse = False,
) -> None:
    """All stages, end to end. Finished ones are reused, interrupted ones resume.

    Examples:

        rlhf run configs/tiny.yaml

        rlhf run configs/baichuan2_7b.yaml --from ppo --set ppo.kl.initial=0.1
    """
    _run(config, overrides, start=start, only=only, redo=redo, rehearsal=rehearse)


def _run(path: Path, overrides: list[str] | None, **options: Any) -> None:
    from rlhf.config.load import load_config

    config = load_config(path, overrides or [])  # before torch, so that a mistake is told at once
    from rlhf.apps.run import run as run_config

    try:
        run_config(config, **options)
    except KeyboardInterrupt:
        again = "the same command without --redo" if options["redo"] else "the same command"
        typer.echo(f"rlhf: interrupted; {again} goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None


def _single_stage(stage: str, summary: str) -> None:
    def command(
        config: ConfigPath,
        overrides: Overrides = None,
        redo: Annotated[bool, typer.Option("--redo", help="Start it afresh.")] = False,
        rehearse: Rehearse = False,
    ) -> None:
        again = stage if redo else None
        _run(config, overrides, start=None, only=stage, redo=again, rehearsal=rehearse)

    app.command(stage, help=f"{summary}\n\nExample: rlhf {stage} configs/tiny.yaml")(command)


_single_stage(
    "sft", "Stage 1 alone: supervised fine-tuning of the main model and of each further size."
)
_single_stage(
    "collect", "Sample the responses that the reward model learns from, and have them ranked."
)
_single_stage("rm", "Stage 2 alone: the reward model.")
_single_stage("ppo", "Stage 3 alone: PPO.")
_single_stage("evaluate", "Judge the policy on held-out prompts and write the report.")


@data_app.command("convert")
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


@app.command("annotate")
def annotate(
    tasks: Annotated[
        Path, typer.Argument(metavar="TASKS", help="A collect folder, or one tasks file.")
    ],
    add_user: Annotated[
        str | None,
        typer.Option("--add-user", metavar="NAME", help="Make an account; asks for its password."),
    ] = None,
    auditor: Annotated[
        bool, typer.Option("--auditor", help="With --add-user: may accept and send back batches.")
    ] = False,
    export: Annotated[
        bool, typer.Option("--export", help="Write the rankings that there are, and exit.")
    ] = False,
    to_label_studio: Annotated[
        Path | None,
        typer.Option("--to-label-studio", metavar="FILE", help="Write the tasks as its JSON."),
    ] = None,
    from_label_studio: Annotated[
        Path | None,
        typer.Option(
            "--from-label-studio", metavar="FILE", help="Write the rankings from its JSON export."
        ),
    ] = None,
    overlap: Annotated[
        int, typer.Option("--overlap", min=1, help="Annotators that each task needs.")
    ] = 1,
    port: Annotated[
        int | None, typer.Option("--port", help="Port on 127.0.0.1; the first free from 7860 on.")
    ] = None,
) -> None:
    """Have people rank responses, on a page that this machine alone can reach.

    The rankings are written beside the tasks when every task has its answers and, where there is
    an auditor, every batch its verdict.

    Examples:

        rlhf annotate runs/baichuan2_7b/collect --add-user ann

        rlhf annotate runs/baichuan2_7b/collect
    """
    from rlhf.apps.annotate.command import annotate as serve

    def ask(prompt: str) -> str:
        return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=True))

    serve(
        tasks,
        new_user=add_user,
        auditor=auditor,
        export=export,
        to_label_studio=to_label_studio,
        from_label_studio=from_label_studio,
        overlap=overlap,
        port=port,
        ask_password=ask,
        say=typer.echo,
    )


def main() -> None:
    """Entry point. The user's mistakes: one line, exit code 2. Anything else: traceback, 1."""
    try:
        app()
    except ValueError as error:
        if not _is_ours(error):
            raise
        typer.echo(f"rlhf: {error}", err=True)
        sys.exit(2)


def _is_ours(error: ValueError) -> bool:
    """Whether this project raised it, for the user to read; a library's is a fault of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    here = Path(__file__).resolve().parent
    raised_in = Path(trace.tb_frame.f_code.co_filename).resolve() if trace is not None else Path()
    return here in raised_in.parents or here.parent / "stages" in raised_in.parents


if __name__ == "__main__":
    main()
