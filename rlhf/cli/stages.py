"""`rlhf run` and a command for each stage alone."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf.runtime.interrupt import terminated_as_interrupted

if TYPE_CHECKING:
    from rlhf.config.schema import Config

app = typer.Typer()

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
Processes = Annotated[
    int | None,
    typer.Option("--nproc", metavar="N", min=1, help="Processes on this host, such as its GPUs."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the config, data and what each stage would do; write nothing."
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
            "--from",
            metavar="STAGE",
            help="Go on from this stage: sft collect dpo rm ppo evaluate",
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="STAGE", help="Run this stage alone.")
    ] = None,
    redo: Redo = None,
    overrides: Overrides = None,
    rehearse: Rehearse = False,
    dry_run: DryRun = False,
    processes: Processes = None,
) -> None:
    """All stages, end to end. Finished ones are reused, interrupted ones resume.

    A config with an ablation runs its variants instead, and prints one table of them.

    Examples:

        rlhf run configs/tiny.yaml

        rlhf run configs/tiny.yaml --set ppo.kl.initial=0.1 --dry-run

        rlhf run configs/ablations/rm.yaml

        rlhf run configs/baichuan2_7b.yaml --from ppo --set ppo.kl.initial=0.1

        rlhf run configs/baichuan2_7b_full.yaml --nproc 8 --set runtime.deepspeed=zero2
    """
    _run(
        config,
        overrides,
        processes,
        start=start,
        only=only,
        redo=redo,
        rehearsal=rehearse,
        dry=dry_run,
    )


def _run(
    path: Path, overrides: list[str] | None, processes: int | None, dry: bool, **options: Any
) -> None:
    from rlhf.config.load import load_config

    config = load_config(path, overrides or [])  # before torch, so that a mistake is told at once
    if config.ablation is not None and (options["start"] or options["only"] or options["redo"]):
        raise ValueError(
            f"{path}: an ablation runs as a whole, without --from, --only and --redo; "
            "remove a variant's directory to start it afresh"
        )
    if config.ablation is not None and processes:
        raise ValueError(f"{path}: an ablation's runs are for one process each; leave out --nproc")
    if dry:
        _dry_run(path, config, processes or 1, options)
        return
    if config.runtime.deepspeed is not None:
        processes = processes or 1  # DeepSpeed expects a launcher, for one process as well
    with terminated_as_interrupted():
        _do(config, processes, options)


def _do(config: Config, processes: int | None, options: dict[str, Any]) -> None:
    again = "the same command"
    if processes and "RANK" not in os.environ:
        from rlhf.apps.launch import launch

        unless = " (without --redo, once it has begun anew)" if options["redo"] else ""
        raise typer.Exit(launch(processes, sys.argv[1:], again + unless))
    from rlhf.apps import ablation
    from rlhf.apps import run as single

    gc.freeze()  # what the libraries' imports made stays: no collection walks through it again
    try:
        if config.ablation is not None:
            ablation.run(config, rehearsal=options["rehearsal"])
        else:
            single.run(config, **options)
    except KeyboardInterrupt as error:
        redone = single.REDONE in getattr(error, "__notes__", ())
        again += " without --redo" if redone else ""
        error.__notes__ = [f"{again} goes on from the last checkpoint"]  # in place of the run's
        raise


def _dry_run(path: Path, config: Config, gpus: int, options: dict[str, Any]) -> None:
    if config.ablation is not None:
        raise ValueError(
            f"{path}: --dry-run is for one run, and this is an ablation; name its base"
        )
    from rlhf.apps.dry_run import dry_run

    dry_run(config, gpus=gpus, **options)


def stage_command(stage: str) -> Callable[..., None]:
    """The command that runs one stage alone."""

    def command(
        config: ConfigPath,
        overrides: Overrides = None,
        redo: Annotated[bool, typer.Option("--redo", help="Start it afresh.")] = False,
        rehearse: Rehearse = False,
        dry_run: DryRun = False,
        processes: Processes = None,
    ) -> None:
        again = stage if redo else None
        _run(
            config,
            overrides,
            processes,
            start=None,
            only=stage,
            redo=again,
            rehearsal=rehearse,
            dry=dry_run,
        )

    return command


STAGES = {
    "sft": "Stage 1 alone: supervised fine-tuning of the main model and of each further size.",
    "collect": "Sample the responses that the reward model learns from, and have them ranked.",
    "dpo": "DPO alone, on the pairs of the reward model; off unless the config has a dpo section.",
    "rm": "Stage 2 alone: the reward model.",
    "ppo": "Stage 3 alone: PPO.",
}
for _stage, _summary in STAGES.items():
    _help = f"{_summary}\n\nExample: rlhf {_stage} configs/tiny.yaml"
    app.command(_stage, help=_help)(stage_command(_stage))
