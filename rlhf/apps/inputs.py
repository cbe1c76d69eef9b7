"""Every step of a run in order, and whether what each reads will be there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rlhf.apps import capabilities
from rlhf.config.schema import Config
from rlhf.runtime.distributed import Runtime, make_runtime
from rlhf.runtime.run_dir import RunDir
from rlhf.runtime.steps import Step, check_others
from stages import collect, dpo, evaluate, ppo, rm, sft

STEPS = {
    "sft": sft.steps,
    "collect": collect.steps,
    "dpo": dpo.steps,
    "rm": rm.steps,
    "ppo": ppo.steps,
    "evaluate": evaluate.steps,
}


def steps(
    config: Config, run_dir: RunDir, work: Sequence[tuple[str, int]]
) -> Iterator[tuple[Step, Runtime]]:
    """work: the stages to come, with their rounds."""
    for step in capabilities.before(config, runtime := make_runtime(config, run_dir), work):
        yield step, runtime
    for stage, number in work:
        runtime = make_runtime(config, run_dir, number)
        for step in [*STEPS[stage](config, runtime), *capabilities.after(stage, config, runtime)]:
            yield step, runtime


def check_inputs(coming: Iterable[tuple[Step, Runtime]]) -> None:
    """Raises ValueError when an input is neither there nor made by an earlier step."""
    made: list[Path] = []
    for step, runtime in coming:
        check_others(step, runtime, made)
        made.append(step.directory)
