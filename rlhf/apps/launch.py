"""`--nproc`: the same command in several processes of this host, by torch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import psutil
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rlhf.runtime.devices import threads_each
from rlhf.runtime.interrupt import Terminated, once_a_moment

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""Environment variable that torch's launcher sets for the processes that it starts."""
HANDLED = "SIGHUP,SIGQUIT"
"""Signals that end all processes. At Ctrl-C and SIGTERM each is told, and stops by itself."""
SAYING = ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api")
"""Loggers of what ends the processes; the second has a level of its own."""
INTERRUPTED = (130, -signal.SIGINT)
"""Exit codes after Ctrl-C: a process that has said so, and one that had no time to."""


def launch(processes: int, arguments: Sequence[str], again: str) -> int:
    """Run `rlhf ARGUMENTS` in so many processes that meet on localhost; the exit code.

    When one dies the others are ended, and a line says which it was. again: the command that goes
    on then, in words.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_each(processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.5,
        signals_to_handle=HANDLED,
    )
    for name in SAYING:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we say it below
    came: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and number in came:
            raise SignalException("a second one ends all at once", signal.SIGTERM)
        came.append(number)
        _pass_on(number)

    for number, handler in {signal.SIGINT: pass_on, signal.SIGTERM: once_a_moment(pass_on)}.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        elastic_launch(config, sys.executable)("-m", "rlhf", *arguments)
    except ChildFailedError as error:
        main = error.failures.get(0)
        rank, failure = _cause(error)
        ended = failure.exitcode == -signal.SIGTERM and signal.SIGTERM in came  # each had one too
        if failure.exitcode in INTERRUPTED or ended:
            _tell_of_interrupt(main is not None and main.exitcode == 130, again)
            return 128 + (came[0] if came else signal.SIGINT)
        return _tell(rank, failure, again)
    except SignalException as error:  # it has ended them all
        _tell_of_interrupt(False, again)
        return 128 + error.sigval
    return 0


def _pass_on(number: int) -> None:
    """Ctrl-C to the processes: each has a session of its own, where no terminal's arrives.

    number: of the signal that came. Raises KeyboardInterrupt where none has been started yet.
    """
    told = False
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) != os.getpgrp():
                told = True
                process.send_signal(signal.SIGINT)
    if not told:
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _cause(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """Who has failed first. One that was killed comes before those that lost it and said so, which
    may be found at the same time; the launcher itself ends what is left by SIGTERM."""
    own = {rank: f for rank, f in error.failures.items() if f.exitcode != -signal.SIGTERM}
    failures = own or error.failures
    killed = [(rank, failure) for rank, failure in failures.items() if failure.exitcode < 0]
    return killed[0] if killed else min(failures.items(), key=lambda found: found[1].timestamp)


def _tell_of_interrupt(told: bool, again: str) -> None:
    """told: whether the main process was still there to say it."""
    if not told:
        print(f"rlhf: interrupted; {again} goes on from the last checkpoint", file=sys.stderr)


def _tell(rank: int, failure: ProcessFailure, again: str) -> int:
    """Says what the process could not say itself; the exit code."""
    if failure.exitcode >= 0:
        return failure.exitcode
    print(
        f"rlhf: process {rank} was killed by {failure.signal_name()} (out of memory?) and all "
        f"others have been ended; {again} goes on from the last checkpoint",
        file=sys.stderr,
    )
    return 1
