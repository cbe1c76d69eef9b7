"""`rlhf run`: from a config to a finished run directory, stage by stage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch

from rlhf.apps import capabilities
from rlhf.apps.inputs import check_inputs, steps
from rlhf.apps.world import prepared_run
from rlhf.config.schema import Config
from rlhf.demo.rehearse import rehearse
from rlhf.models.context import check_answers
from rlhf.models.registry import spec_on_disk
from rlhf.ppo.machine import check_machine
from rlhf.runtime.alike import check_alike
from rlhf.runtime.compilers import check_compilers
from rlhf.runtime.devices import choose_device
from rlhf.runtime.distributed import (
    Runtime,
    StageResult,
    connect,
    disconnect,
    make_runtime,
    once,
    world_size,
)
from rlhf.runtime.quiet import quiet
from rlhf.runtime.run_dir import EACH_ROUND, RunDir
from rlhf.runtime.steps import execute
from rlhf.training.engine import check_processes
from stages import collect, dpo, evaluate, ppo, rm, sft

REDONE = "leave out --redo to go on from here; it would begin anew"
Stage = Callable[[Config, Runtime], StageResult]
Work = tuple[str, int]
"""A stage and its round."""
STAGES: dict[str, Stage] = {
    "sft": sft.run,
    "collect": collect.run,
    "dpo": dpo.run,
    "rm": rm.run,
    "ppo": ppo.run,
    "evaluate": evaluate.run,
}


@quiet()
def run(
    config: Config,
    *,
    start: str | None,
    only: str | None,
    redo: str | None,
    rehearsal: bool,
) -> None:
    """Run the stages of a config in order; what is finished and unchanged is reused.

    Args:
        start: go on from this stage, leaving out what comes before it. only: run this one alone.
        redo: set this stage's results aside (those of the last round) and start it afresh.
        rehearsal: the same config in miniature (rlhf.demo.rehearse).

    Raises:
        ValueError: the user's input is wrong, in one line.
    """
    check_stages(config, start, only, redo)
    config = rehearse(config) if rehearsal else config
    stages: tuple[str, ...] = (only,) if only else config.stages or tuple(STAGES)
    connect(config.runtime)
    check_alike(config)
    check_processes(config, stages)
    tell_of_idle_gpus(config)
    with prepared_run(config, stages=stages) as (config, run_dir):
        plan = once(lambda: planned(config, run_dir, start, only, redo))
        coming = {stage for stage, _ in plan}
        check_roles(config, coming)
        check_compilers(config, coming, choose_device(config.runtime).type)
        check_answers(config, coming, spec_on_disk)
        if "ppo" in coming:
            check_machine(config)
            ppo.check(config)
        once(lambda: check_inputs(steps(config, run_dir, plan)))
        for step in capabilities.before(config, runtime := make_runtime(config, run_dir), plan):
            execute(step, runtime)
        with ExitStack() as redone:
            anew = ""
            for stage, number in plan:
                runtime = make_runtime(config, run_dir, number)
                if stage == redo and number == last_round(stage, config.rounds):
                    once(partial(run_dir.set_aside, runtime.stage_dir(stage)))
                    redone.enter_context(_telling_of_redo())
                    anew = ", without --redo, which would begin anew"
                result = STAGES[stage](config, runtime)
                if result.waiting:
                    runtime.console.print(f"{result.waiting}{anew}", soft_wrap=True)  # to be copied
                    break
                for step in capabilities.after(stage, config, runtime):
                    execute(step, runtime)
    disconnect()


@contextmanager
def _telling_of_redo() -> Iterator[None]:
    """What ends the run in here is told with how to go on; input to mend has a line already."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, ValueError):
            error.add_note(REDONE)
        raise


def tell_of_idle_gpus(config: Config) -> None:
    """One process takes one GPU; on a host of several that is seldom what was meant."""
    if world_size() == 1 and choose_device(config.runtime).type == "cuda":
        gpus = torch.cuda.device_count()
        if gpus > 1:
            print(f"rlhf: one GPU of this host's {gpus}; --nproc {gpus} takes all", file=sys.stderr)


def check_stages(config: Config, start: str | None, only: str | None, redo: str | None) -> None:
    """Raises ValueError for stages that there are not, or that do not go together."""
    for flag, stage in (("--from", start), ("--only", only), ("--redo", redo)):
        if stage is not None and stage not in STAGES:
            raise ValueError(f"{flag} {stage}: no such stage; choose one of {' '.join(STAGES)}")
        if stage is not None and config.stages and stage not in config.stages:
            mine = ", ".join(name for name in STAGES if name in config.stages)
            raise ValueError(
                f"{flag} {stage}: this config has the stages {mine}; add it there, or --set "
                "stages=null for all"
            )
        if stage == "dpo" and config.dpo is None:
            raise ValueError(f"{flag} dpo: this config has no DPO; add a section, even dpo: {{}}")
    if only and (start or redo not in (None, only)):
        raise ValueError(f"--only {only} runs nothing else; leave out --from, or --redo of another")
    if start and redo and list(STAGES).index(redo) < list(STAGES).index(start):
        raise ValueError(f"--redo {redo} comes before --from {start}; leave out --from")


def planned(
    config: Config, run_dir: RunDir, start: str | None, only: str | None, redo: str | None
) -> list[Work]:
    """What to run, in order. With several rounds, `only` means the first that lacks the stage."""
    rounds = config.rounds
    order: list[Work] = [("sft", 1)]
    order += [(stage, number) for number in range(1, rounds + 1) for stage in EACH_ROUND]
    order.append(("evaluate", rounds))
    left_out = set(STAGES) - set(config.stages or STAGES) | ({"dpo"} if not config.dpo else set())
    order = [work for work in order if work[0] not in left_out]
    if only:
        mine = [work for work in order if work[0] == only]
        unfinished = (work for work in mine if not run_dir.is_done(*work, rounds))
        return [mine[-1] if only == redo else next(unfinished, mine[-1])]
    if redo and not start:
        return order[order.index((redo, last_round(redo, rounds))) :]
    return order[[stage for stage, _ in order].index(start) :] if start else order


def check_roles(config: Config, stages: set[str]) -> None:
    """Raises ValueError when PPO could not use the reward model that is trained for it here."""
    whole = config.rm.tuning.method == "full" and config.ppo.reward_model is None
    if {"rm", "ppo"} <= stages and whole and config.ppo.roles == "shared":
        raise ValueError(
            "ppo.roles: shared needs a reward model that is an adapter, and rm.tuning.method is "
            "full: set ppo.roles to separate, or rm.tuning.method to lora"
        )


def last_round(stage: str, rounds: int) -> int:
    return 1 if stage == "sft" else rounds
