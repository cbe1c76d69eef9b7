"""`rlhf run --dry-run`: what a run would do, and from what. Writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table

from rlhf.apps.inputs import steps
from rlhf.apps.run import STAGES as ORDER
from rlhf.apps.run import check_roles, check_stages, last_round, planned
from rlhf.apps.world import DEMO, auditor, located, mixed_text
from rlhf.config.load import dump_config, load_config
from rlhf.config.schema import Config, DataSection
from rlhf.data.jsonl import read_lines
from rlhf.data.prepare import KINDS, gathered, is_prepared
from rlhf.demo.build import is_built
from rlhf.demo.rehearse import rehearse
from rlhf.planning.planner import plan
from rlhf.runtime.outlook import Outlook, outlook
from rlhf.runtime.quiet import quiet, warnings_on
from rlhf.runtime.run_dir import RunDir
from rlhf.runtime.usage import GIB

ACTIONS = {"reuse": "reused", "resume": "resumed", "run": "run"}


USUAL_MEMORY = 80.0
"""GiB of a GPU, where this machine has none."""


@quiet()
def dry_run(
    config: Config,
    *,
    gpus: int,
    start: str | None,
    only: str | None,
    redo: str | None,
    rehearsal: bool,
) -> None:
    """Print the resolved config, the sizes of the data, the memory that each stage needs on each of
    so many GPUs, and what becomes of each step.

    Raises:
        ValueError: as `rlhf.apps.run.run`, for what would stop it before its first stage.
    """
    check_stages(config, start, only, redo)
    config = rehearse(config) if rehearsal else config
    stages: tuple[str, ...] = (only,) if only else config.stages or tuple(ORDER)
    config, data, run_dir = located(config, stages=stages)
    console = Console()
    console.print(dump_config(config), markup=False, highlight=False, end="", soft_wrap=True)
    changes = list(changed_keys(config, run_dir.root / "config.yaml"))
    if changes:
        console.rule(f"changed since the last run of {run_dir.root}")
        console.print("\n".join(changes), markup=False, highlight=False, soft_wrap=True)
    coming = _world_to_come(config, data, run_dir, console)
    console.print(data_table(data, run_dir, coming))
    if config.demo is None:
        console.print(memory_table(config, stages, gpus))
    work = planned(config, run_dir, start, only, redo)
    check_roles(config, {stage for stage, _ in work})
    texts = (Column(name, overflow="fold") for name in ("step", "will be", "why"))
    table = Table(*texts, title=f"stages of {run_dir.root}")
    for step, runtime in steps(config, run_dir, work):
        afresh = step.stage == redo and runtime.round == last_round(redo, config.rounds)
        found = Outlook("run", "--redo") if afresh else outlook(step, runtime, coming)
        if found.action != "reuse" or not step.directory.exists():
            coming.append(step.directory)
        table.add_row(step.key, ACTIONS[found.action], found.reason)
    console.print(table)


def changed_keys(config: Config, before: Path) -> Iterator[str]:
    """A line for each key that has another value than in the run's own config; none without one."""
    if before.is_file():
        old, new = _flat(load_config(before).model_dump()), _flat(config.model_dump())
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                yield f"{key}: {old.get(key)} -> {new.get(key)}"


def data_table(data: DataSection, run_dir: RunDir, coming: list[Path]) -> Table:
    """The files that the config names, and what was made of them where that is up to date."""
    texts = (Column(name, overflow="fold") for name in ("data", "file"))
    table = Table(*texts, "records", "MiB", title="data")
    names = [name for kind in KINDS for name in (kind, f"{kind}_eval")]
    named = {name: getattr(data, name) for name in [*names, "audits"] if getattr(data, name)}
    files = {name: Path(path) for name, path in named.items()}
    if not any(path.is_relative_to(run_dir.data) for path in coming):
        files |= {f"prepared {name}": run_dir.data / f"{name}.jsonl" for name in names}
    for name, path in files.items():
        if path.is_file() and not any(path.is_relative_to(folder) for folder in coming):
            records = sum(1 for _ in read_lines(path))
            table.add_row(name, str(path), str(records), f"{path.stat().st_size / 2**20:.1f}")
        elif name in named:
            table.add_row(name, str(path), "made by the run", "")
    return table


def memory_table(config: Config, stages: Collection[str], gpus: int) -> Table:
    """Reckoned by rlhf.planning, for this machine's GPUs or, without any, for usual ones."""
    there = torch.cuda.is_available()
    memory = torch.cuda.mem_get_info()[1] / GIB if there else USUAL_MEMORY
    chosen = config.model_copy(update={"stages": tuple(stages)})  # what does not run is not refused
    found = plan(chosen, gpus=gpus, gpu_memory=memory)
    title = f"memory of each GPU ({gpus} of {memory:.0f} GiB)"
    names = ("stage", "GiB", "most in", "fits", "hours")
    table = Table(*(Column(name, overflow="fold") for name in names), title=title)
    for stage in found.stages:
        fits = "yes" if stage.fits else "no: rlhf plan says what would help"
        hours = stage.duration.hours
        time = "" if hours is None else f"{hours:.2g}"
        table.add_row(stage.name, f"{stage.peak_gib:.1f}", stage.height.name, fits, time)
    return table


def _world_to_come(
    config: Config, data: DataSection, run_dir: RunDir, console: Console
) -> list[Path]:
    """The files and folders that are made before the first stage.

    Raises ValueError where they cannot be: a file of the user's is damaged, held-out texts leak.
    """
    demo = run_dir.root / DEMO
    coming = [demo] if config.demo is not None and not is_built(config.demo, demo) else []
    curation, text = config.sft.curation, mixed_text(config)
    if coming or not is_prepared(data, curation, run_dir.data, config.seed, text):
        if not coming:
            with warnings_on(console):
                gathered(data, curation, auditor(config), run_dir.data, config.seed, text)
        named = [kind for kind in KINDS if getattr(data, kind)]
        coming += [run_dir.data / f"{kind}{end}.jsonl" for kind in named for end in ("", "_eval")]
    return coming


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        place = f"{above}{key}"
        found |= _flat(value, f"{place}.") if isinstance(value, dict) else {place: value}
    return found
