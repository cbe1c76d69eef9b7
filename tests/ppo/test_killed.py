"""kill -9 at random moments of a run, also inside a save: what is resumed is exact."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from rlhf.ppo import train
from rlhf.runtime import checkpoint
from rlhf.runtime.metrics import MetricsLog
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import FakeRoles, count_of

pytestmark = pytest.mark.slow

# One process imports torch, and forks at every start.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])

KILLS = 20
PROMPTS = [[3, 4, 5], [6], [7, 8], [9, 10, 11, 12], [13, 14], [5, 5, 5], [3, 3], [4, 7, 4]]
SECTION: dict[str, Any] = {
    "iterations": 20,
    "epochs": 2,
    "critic_warmup": 2,
    "checkpoint_every": 1,
    "microbatch_tokens": 24,
    "ema_decay": 0.9,
    "pretraining": {"data": "texts.jsonl", "rows": 3},
    "kl": {"initial": 0.1, "schedule": "adaptive", "target": 0.5, "horizon": 100},
    "score": {"normalisation": "running"},
    "actor_optimiser": {"learning_rate": 3e-2, "schedule": "cosine", "warmup_steps": 3},
    # Steps too long at first: a rollback has to survive as well.
    "monitors": {"clip_fraction": {"action": "rollback"}, "step_factor": 0.2},
}
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
HALF_WRITTEN = ("open", "os.rename")  # of those, what finds the half-written checkpoint there
RESULTS = ("final.safetensors", "metrics.jsonl")


def _run(directory: Path) -> None:
    roles = FakeRoles(count_of(5))
    with MetricsLog(directory) as metrics:
        trained = train(
            roles,
            PROMPTS,
            ppo_section(**SECTION),
            score_statistics=(None, None),
            output_dir=directory,
            seed=3,
            metrics=metrics,
            pretraining=PROMPTS,
        )
    averages = trained.averaged_actor or {}
    save_file(
        {
            **{f"actor.{name}": tensor for name, tensor in roles.actor_state().items()},
            **{f"critic.{name}": tensor for name, tensor in roles.critic_state().items()},
            **{f"average.{name}": tensor for name, tensor in averages.items()},
        },
        directory / "final.safetensors",
    )
    (directory / "cpu_seconds").write_text(str(time.process_time()))


def _run_and_die(directory: Path, kind: str, number: int, cpu_seconds: float) -> None:
    """Die after so much CPU time, or at the file event of that number, anywhere or in a save."""
    seen = 0

    def die_at(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if kind == "save":
            counts = event in HALF_WRITTEN and ".partial-" in str(arguments[0])
        else:
            counts = event in FILE_EVENTS
        seen += counts
        if counts and seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if kind == "time":
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # its signal ends a process as -9 does
    else:
        sys.addaudithook(die_at)
    _run(directory)


def _start(target: Any, *arguments: Any) -> int:
    process = FORKS.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _start(_run, whole) == 0
    newest = checkpoint.latest(whole / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest)["progress"]["rollbacks"] > 0
    run_time = float((whole / "cpu_seconds").read_text())
    moments = random.Random(0)
    kills = inside_a_save = 0
    while kills < KILLS:
        kind = ("time", "file", "save")[kills % 3]
        number = moments.randrange(1, 15 if kind == "save" else 60)
        code = _start(_run_and_die, cut, kind, number, moments.uniform(0.01, 0.1) * run_time)
        if code == 0:  # it came to its end before that
            assert _same(cut, whole)
            shutil.rmtree(cut)
            continue
        assert code in (-signal.SIGKILL, -signal.SIGPROF)
        kills += 1
        inside_a_save += any((cut / "checkpoints").glob(".partial-*"))
    assert inside_a_save >= KILLS // 3
    assert _start(_run, cut) == 0
    assert _same(cut, whole)
