"""kill -9 in the supervised stages, also inside a save: what is resumed is exact."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.schema import TuningSection
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.quiet import quiet
from tests.training import test_dpo, test_reward, test_sft, worlds

pytestmark = pytest.mark.slow

# One process imports torch, and forks at every start.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])

KILLS = 3
SETTINGS: dict[str, Any] = {
    "tuning": TuningSection(method="lora", r=4, dropout=0.1),
    "max_steps": 6,
    "eval_every": 3,
    "checkpoint_every": 2,
}
WRITES = ("open", "os.rename", "os.mkdir")


def _sft(path: Path, metrics: Any) -> None:
    test_sft.run(path, metrics, packing=True, neftune_alpha=5.0, **SETTINGS)


def _rm(path: Path, metrics: Any) -> None:
    trunk = path.parent / "trunk"
    if not trunk.is_dir():
        worlds.saved_trunk(trunk)
    test_reward.run(path, metrics, worlds.fresh_reward_model(trunk), **SETTINGS)


def _dpo(path: Path, metrics: Any) -> None:
    test_dpo.run(path, metrics, **SETTINGS)


STAGES: dict[str, Callable[[Path, Any], None]] = {"sft": _sft, "rm": _rm, "dpo": _dpo}


def _run(stage: str, path: Path, last: int | None) -> None:
    """Train, and die at the write of that number among those to a checkpoint.

    Without one, the number of those writes is left beside the result.
    """
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in WRITES and "checkpoints/" in str(arguments[event == "os.rename"]):
            seen += event != "open" or not str(arguments[1]).startswith("r")
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    with quiet():
        STAGES[stage](path, MetricsLog(path))
    path.with_suffix(".writes").write_text(str(seen))


def _start(*arguments: Any) -> int | None:
    process = FORKS.Process(target=_run, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("stage", STAGES)
def test_kills_change_no_bit(stage: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _start(stage, whole, None) == 0
    writes = int(whole.with_suffix(".writes").read_text())
    half_written = 0
    moments = random.Random(0)
    for kill in range(KILLS):
        # A resumed run has fewer writes to come: the later kills are the earlier ones of the rest.
        moment = 1 + moments.randrange(writes // (2 + kill))
        assert _start(stage, cut, moment) == -signal.SIGKILL
        folders = (cut / "checkpoints").glob("checkpoint-*")
        half_written += any(not (folder / "complete.json").is_file() for folder in folders)
    assert half_written
    assert _start(stage, cut, None) == 0
    results = [path.name for path in whole.iterdir() if path.suffix in (".safetensors", ".jsonl")]
    assert len(results) == 2
    for name in results:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
