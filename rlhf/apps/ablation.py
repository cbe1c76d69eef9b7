"""`rlhf run` on a config with an ablation: its variants over seeds, and one table of them all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.table import Table as Grid

from rlhf.apps.figures import check_metrics
from rlhf.apps.run import STAGES
from rlhf.apps.world import prepared_run
from rlhf.config.load import dump_config, variant
from rlhf.config.schema import AblationSection, Config
from rlhf.demo.rehearse import rehearse
from rlhf.evaluation import ablation
from rlhf.evaluation.ablation import Outcome
from rlhf.runtime.distributed import make_runtime
from rlhf.runtime.files import write_text
from rlhf.runtime.quiet import quiet
from rlhf.runtime.run_dir import RunDir
from rlhf.runtime.steps import Waiting
from rlhf.runtime.usage import versions

SEEDED = {"rm": ("rm",), "ppo": ("dpo", "ppo", "evaluate")}
"""Stages that run for every seed, by the stage that is varied: until its figures are there. PPO is
compared with DPO of the same seed, where there is one."""


@quiet()
def run(config: Config, *, rehearsal: bool) -> None:
    """Run every variant of the config's ablation with every seed, and write the comparison.

    A variant is a run in `runs/<name>/<variant>/`, and in its `seed-<number>/` from the varied
    stage on; what is finished and unchanged is reused. The table is printed, and written beside
    them as ablation.json, ablation.csv and ablation.md.

    Raises:
        ValueError: the user's input is wrong, in one line.
    """
    section = config.ablation
    assert section is not None, "the command line asks for it"
    root = config.run_dir.with_name(f"{config.name}-rehearsal") if rehearsal else config.run_dir
    lenders = tuple(config.run_dir.with_name(name) for name in section.reuse)
    console, outcomes = Console(), []
    tested: tuple[str, ...] = () if rehearsal else config.rm.data.held_out
    for name in section.variants:
        check_metrics(variant(config, name), section.metrics)
    # The baseline first: what it has made is lent to the others, and tests them.
    for name in sorted(section.variants, key=lambda name: name != section.baseline):
        mine = variant(config, name)
        mine = rehearse(mine) if rehearsal else mine
        mine = mine.model_copy(update={"name": name, "output_dir": str(root)})
        try:
            with prepared_run(mine, lenders) as (mine, run_dir):
                _run_stages(mine, run_dir, _before(section))
                if section.stage == "rm":
                    tested = tested or (str(run_dir.stage("collect") / "eval_rankings.jsonl"),)
                    mine = _tested_on(mine, tested)
                for seed in section.seeds:
                    console.rule(f"{name}, seed {seed}")
                    same_seed = tuple(root / f"seed-{seed}" for root in lenders)
                    outcomes.append(_outcome(mine, run_dir, seed, section, same_seed))
                    for path in section.metrics.values():
                        ablation.figure(outcomes[-1].report, path)  # what its data lacks, told now
        except Waiting as reason:
            console.print(str(reason))
            return
        lenders += (run_dir.root,)
    table = ablation.compare(outcomes, section.baseline, section.metrics)
    ablation.write(root, table, section.baseline, _facts(section, outcomes))
    columns, rows = ablation.headings(table, section.baseline), ablation.lines(table)
    console.print(_grid(columns, list(rows), console))
    console.print(f"written: {root / 'ablation.md'}, ablation.csv, ablation.json")


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> Grid:
    """A variant a row; on a terminal too narrow for it a figure a row, so that none is cut off."""
    wide = Grid(*columns)
    for row in rows:
        wide.add_row(*row)
    if wide.__rich_measure__(console, console.options.update(width=10_000)).maximum < console.width:
        return wide
    tall = Grid(*(Column(name, overflow="fold") for name in ("figure", "variant")), "value")
    tall.add_column(columns[2])
    for i in range(1, len(columns), 2):
        for number, row in enumerate(rows):
            tall.add_row("" if number else columns[i], row[0], row[i], row[i + 1])
        tall.add_section()
    return tall


def _before(section: AblationSection) -> list[str]:
    order = list(STAGES)
    seeded = SEEDED[section.stage]
    return [stage for stage in order[: order.index(section.stage)] if stage not in seeded]


def _run_stages(
    config: Config, run_dir: RunDir, stages: Sequence[str], *, silent: bool = False
) -> None:
    """Raises Waiting when people have to rank responses first."""
    for stage in stages:
        runtime = make_runtime(config, run_dir)
        runtime = replace(runtime, console=Console(quiet=True)) if silent else runtime
        if waiting := STAGES[stage](config, runtime).waiting:
            raise Waiting(waiting)


def _outcome(
    config: Config, run_dir: RunDir, seed: int, section: AblationSection, lenders: tuple[Path, ...]
) -> Outcome:
    """One seed's run, in a directory of its own that borrows all that the variant has made.

    lenders: the same seed's runs of the variants before.
    """
    mine = RunDir(run_dir.root / f"seed-{seed}", (run_dir.root, *lenders))
    mine.root.mkdir(exist_ok=True)
    if not mine.data.is_symlink():
        mine.data.symlink_to(os.path.relpath(run_dir.data, mine.root), target_is_directory=True)
    _run_stages(config, mine, _before(section), silent=True)
    config = config.model_copy(update={"seed": seed})
    write_text(mine.root / "config.yaml", dump_config(config))
    _run_stages(config, mine, SEEDED[section.stage])
    return Outcome.read(config.name, seed, mine.root)


def _tested_on(config: Config, rankings: tuple[str, ...]) -> Config:
    """The config with the reward model tested on these rankings, whatever it has collected."""
    data = config.rm.data.model_copy(update={"held_out": rankings})
    return config.model_copy(update={"rm": config.rm.model_copy(update={"data": data})})


def _facts(section: AblationSection, outcomes: list[Outcome]) -> dict[str, Any]:
    """What ablation.json says beside the table: the variants, and every run's figures."""
    runs = [
        {
            "variant": outcome.variant,
            "seed": outcome.seed,
            **{
                title: ablation.figure(outcome.report, path)
                for title, path in section.metrics.items()
            },
        }
        for outcome in outcomes
    ]
    return {**section.model_dump(mode="json"), "versions": versions(), "runs": runs}
