"""`--nproc`: a process that dies ends the others with a line; the same command then goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from rlhf import cli
from rlhf.apps import launch as launcher
from rlhf.apps.launch import _cause, launch
from tests.stages.worlds import miniature, statuses

pytestmark = pytest.mark.slow
INTERRUPTED = "rlhf: interrupted; the same command goes on from the last checkpoint"


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf", *arguments, "--nproc", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def process(launcher: int, rank: int) -> psutil.Process:
    ranks = ((child, child.environ().get("RANK")) for child in psutil.Process(launcher).children())
    return next(child for child, number in ranks if number == str(rank))


@pytest.mark.parametrize(("ended", "first"), [({0: 1, 1: -9}, 1), ({0: 2, 1: -15}, 0)])
def test_who_was_killed_comes_before_those_that_lost_it(ended: dict[int, int], first: int) -> None:
    found = {n: ProcessFailure(n, 100 + n, code, "<N/A>") for n, code in ended.items()}
    rank, failure = _cause(ChildFailedError("rlhf", found))
    assert (rank, failure.exitcode) == (first, ended[first])


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ({0: 130, 1: 130}, ""),
        ({0: -15, 1: 130}, f"{INTERRUPTED}\n"),
        ({0: -2, 1: 130}, f"{INTERRUPTED}\n"),
    ],
)
def test_an_interrupt_is_said_where_the_main_process_had_no_time_to(
    ended: dict[int, int], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupted(*_: object) -> None:
        raise ChildFailedError("rlhf", {n: ProcessFailure(n, 9, c, "") for n, c in ended.items()})

    monkeypatch.setattr(launcher, "elastic_launch", lambda *_: interrupted)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert launch(2, ["run"], "the same command") == 130
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("rank", "words", "waits"),
    [
        ("0", "gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:5", True),
        ("0", "shapes do not match", False),
        ("1", "shapes do not match", True),
    ],
)
def test_who_has_lost_another_waits_to_be_ended_and_hides_nothing(
    rank: str, words: str, waits: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def failing(**_: object) -> None:
        raise RuntimeError(words) from OSError("torch")

    waited: list[float] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(cli, "app", failing)
    monkeypatch.setattr(cli, "_is_ours", lambda _: False)
    monkeypatch.setattr("time.sleep", waited.append)
    assert cli._answer() == 1
    assert waited == [cli.MOMENT] * waits
    told = capsys.readouterr().err
    assert "Traceback" in told and words in told


def test_a_signal_that_ends_all_is_told_as_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def ended(*_: object) -> None:
        raise SignalException("got signal", signal.SIGTERM)

    monkeypatch.setattr(launcher, "elastic_launch", lambda *_: ended)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert launch(2, ["run"], "the same command") == 128 + 15
    assert capsys.readouterr().err == f"{INTERRUPTED}\n"


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_before_there_is_a_process_is_one_line(name: str, code: int) -> None:
    program = f"""
import signal
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from rlhf.cli import main
SubprocessContext._start = lambda self: signal.raise_signal(signal.{name})
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "configs/tiny.yaml", "--nproc", "2"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (code, "rlhf: interrupted\n")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_reaches_every_process_and_is_said_once(
    name: str, code: int, tmp_path: Path
) -> None:
    config, run_dir = miniature("two", tmp_path), tmp_path / "two"
    launched = start("run", str(config), "--set", "stages=[sft]", "--set", "sft.max_steps=400")
    while not list(run_dir.glob("sft/main/checkpoints/*/complete.json")):
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.1)
    launched.send_signal(getattr(signal, name))
    _, errors = launched.communicate(timeout=600)
    assert launched.returncode == code
    assert [line for line in errors.splitlines() if line.startswith("rlhf: ")] == [INTERRUPTED]
    assert statuses(run_dir) == {"sft/main": "running"}


def test_a_killed_process_ends_all_and_the_run_goes_on(tmp_path: Path) -> None:
    config, run_dir = miniature("two", tmp_path), tmp_path / "two"
    changes = ("stages=[sft]", "sft.max_steps=24")
    options = [part for change in changes for part in ("--set", change)]
    launched = start("run", str(config), *options)
    while not list(run_dir.glob("sft/main/checkpoints/*/complete.json")):
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.1)
    process(launched.pid, rank=1).send_signal(signal.SIGKILL)
    _, errors = launched.communicate(timeout=600)
    assert launched.returncode == 1
    assert "process 1 was killed by SIGKILL" in errors and "goes on from the last" in errors
    assert errors.count("\n") == 1, errors
    assert statuses(run_dir) == {"sft/main": "running"}

    launched = start("run", str(config), *options)
    _, errors = launched.communicate(timeout=900)
    assert launched.returncode == 0, errors
    assert statuses(run_dir) == {"sft/main": "done"}
