"""`rlhf plan`: the plan of a config as a table, as JSON, or as a DeepSpeed configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.table import Table

from rlhf.config.schema import Config
from rlhf.demo import moss
from rlhf.demo.models import official_config
from rlhf.models.registry import CONFIGS, named, spec_of
from rlhf.models.spec import ModelSpec
from rlhf.planning import Plan, plan
from rlhf.planning.deepspeed import Decision, decide
from rlhf.planning.memory import KINDS
from rlhf.planning.setting import GIB
from rlhf.planning.stages import StagePlan
from rlhf.runtime.files import write_text


def plan_run(config: Config, *, gpus: int = 1, gpu_memory: float = 80.0) -> Plan:
    """As `rlhf.planning.plan`; the demo's models, which a run makes, have their own sizes."""
    return plan(config, gpus=gpus, gpu_memory=gpu_memory, specs=_demo_specs(config))


def show(found: Plan, console: Console) -> None:
    """A table of every phase, who holds what where four roles do, and what would fit."""
    table = _table(found, KINDS)
    if (
        table.__rich_measure__(console, console.options.update(width=10_000)).maximum
        > console.width
    ):
        table = _table(found, ())
    console.print(table)
    for stage in found.stages:
        roles = _roles(stage)
        if roles:
            console.print(f"{stage.name}, {stage.height.name}: {roles}")
    whole = "not known before the data are there"
    whole = whole if found.hours is None else _span(3600 * found.hours)
    console.print(f"All stages: {whole}, on {found.gpus} x {found.gpu_memory:g} GiB.")
    if found.options:
        console.print(_option_table(found))


def write_deepspeed(
    config: Config, path: Path, *, gpus: int, gpu_memory: float, per_host: int
) -> Decision:
    """Decide, and write the JSON that `runtime.deepspeed` takes.

    Raises ValueError where something else is, which it would replace.
    """
    if path.exists() and not _for_deepspeed(path):
        raise ValueError(f"{path}: is there, and no DeepSpeed configuration; name another file")
    decision = decide(
        config, gpus=gpus, gpu_memory=gpu_memory, per_host=per_host, specs=_demo_specs(config)
    )
    write_text(path, json.dumps(decision.values, indent=2) + "\n")
    return decision


def _for_deepspeed(path: Path) -> bool:
    try:
        return "zero_optimization" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def told(decision: Decision, path: Path) -> str:
    """What was decided, in a line, and how to use it."""
    engine = decision.engine
    layers = f"; {decision.whole} of {decision.layers} layers stay whole" * (engine.stage == 3)
    return (
        f"{engine.name} on {engine.gpus} GPUs, {decision.peak_gib:.1f} GiB each{layers}\n"
        f"{path} -> --set {quote(f'runtime.deepspeed={path}')}"
    )


def _demo_specs(config: Config) -> dict[str, ModelSpec]:
    """Of the demo's models, none of which exists before the run."""
    specs = {}
    for entry in config.models.values():
        if config.demo and _made_by_the_run(entry.path, config):
            spec, size = named(entry.architecture), config.demo.vocabulary
            moss_like = spec.family == "moss"
            fields = moss.official_config(size) if moss_like else official_config(spec, size)
            specs[entry.path] = spec_of(CONFIGS[spec.family].from_dict(fields))
    return specs


def _made_by_the_run(path: str, config: Config) -> bool:
    return path.startswith("demo://") or Path(path).is_relative_to(config.run_dir / "demo")


def _table(found: Plan, kinds: Sequence[str]) -> Table:
    """kinds: of what lies in memory, a column each; a narrow terminal has no room for them."""
    table = Table(title=f"{found.name}: GiB on each GPU", title_justify="left")
    for name in ("stage", "phase"):
        table.add_column(name, overflow="fold")
    for name in (*kinds, "peak", "time"):
        table.add_column(name, justify="right", overflow="fold")
    for stage in found.stages:
        for index, phase in enumerate(stage.phases):
            height = phase is stage.height
            table.add_row(
                f"{stage.name}\n({stage.engine})" if index == 0 else "",
                phase.name,
                *(_gib(phase.of(kind)) for kind in kinds),
                _verdict(stage) if height else _gib(phase.peak),
                _time(stage) if index == 0 else "",
                style=None if height else "dim",
            )
        table.add_section()
    return table


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size > GIB / 20 else "-"


def _verdict(stage: StagePlan) -> str:
    colour, word = ("green", "fits") if stage.fits else ("red", "too much")
    return f"[bold {colour}]{stage.peak_gib:.1f} {word}[/]"


def _time(stage: StagePlan) -> str:
    duration = stage.duration
    lines = []
    if duration.unit != "pass":
        lines.append(f"{_span(duration.seconds)} per {duration.unit}")
    if duration.hours is not None:
        lines.append(f"{_span(3600 * duration.hours)} in all")
    return "\n".join(lines)


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _roles(stage: StagePlan) -> str:
    held: dict[str, int] = {}
    for part in stage.height.parts:
        held[part.role] = held.get(part.role, 0) + part.size
    return ", ".join(f"{role} {size / GIB:.1f}" for role, size in held.items() if len(held) > 1)


def _option_table(found: Plan) -> Table:
    table = Table(title="What would make it fit (--set, --gpus)", title_justify="left")
    table.add_column("stage", overflow="fold")
    table.add_column("change", overflow="fold")
    table.add_column("GPUs", justify="right")
    table.add_column("peak", justify="right")
    for option in found.options:
        word = "[green]fits[/]" if option.fits else "[red]too much[/]"
        keys = "\n".join(option.keys)
        table.add_row(option.stage, keys, str(option.gpus), f"{option.peak_gib:.1f} {word}")
    return table
