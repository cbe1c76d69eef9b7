"""`rlhf`: the command line, a module a group. Commands import what they need, so that `--help`
answers at once."""

from __future__ import annotations

import errno
import logging
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from rlhf.cli import (
    annotate,
    chat,
    data,
    doctor,
    evaluate,
    init,
    lineage,
    models,
    plan,
    serve,
    stages,
    ui,
)
from rlhf.runtime.ending import end
from rlhf.runtime.interrupt import Terminated

MOMENT = 30.0
"""Seconds that the main process is given to tell first what went wrong."""

CLOSED = (PermissionError, NotADirectoryError, IsADirectoryError)
"""A path that is not for this user, or another kind of thing: whichever library came upon it."""
NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.ESTALE)
"""What else is the path's fault."""
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "process exited")
"""What gloo and NCCL say where another process is gone."""
FORESEEN = (ValueError, OSError, RuntimeError, FloatingPointError)


class Interruptible(TyperGroup):
    """Says that Ctrl-C has ended a command, where typer has an exit code for it and no word."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Runs the command that is asked for; at a prompt Ctrl-C comes as an Abort."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort) as error:
            pressed = error.__context__ if isinstance(error, typer.Abort) else error
            if not isinstance(pressed, KeyboardInterrupt):
                raise
            raise typer.Exit(_interrupted(pressed)) from None


def _interrupted(error: KeyboardInterrupt) -> int:
    """Says it, with what its notes add, and of several processes once; the exit code, a shell's."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo("; ".join(["rlhf: interrupted", *getattr(error, "__notes__", ())]), err=True)
    return 143 if isinstance(error, Terminated) else 130


app = typer.Typer(
    name="rlhf",
    cls=Interruptible,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RLHF for the Baichuan family: SFT, reward model, PPO.",
)
app.add_typer(stages.app)
app.add_typer(plan.app)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(annotate.app)
app.add_typer(models.app)
app.add_typer(chat.app)
app.add_typer(serve.app)
app.add_typer(data.app, name="data")
app.add_typer(doctor.app)
app.add_typer(ui.app)
app.add_typer(init.app)
app.add_typer(lineage.app)


def main() -> None:
    """Entry point. The user's mistakes: one line, exit code 2. What else is foreseen, such as a
    full disk or an alarm that stops PPO: one line, 1. Anything else: traceback, 1."""
    # Threads that wait for work sleep instead of spinning: as fast, an eighth less CPU time, and
    # several times as fast where something else runs too. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # On some processors it tells of a faster kernel whenever it is imported, needed or not.
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)
    end(_answer())


def _answer() -> int:
    """Does what the command line asks for, or says what went wrong; the exit code."""
    try:
        return app(prog_name="rlhf", standalone_mode=False) or 0
    except KeyboardInterrupt as error:  # before typer has begun
        return _interrupted(error)
    except typer.Abort:
        typer.echo("rlhf: broken off", err=True)
        return 1
    except typer.TyperException as error:
        _tell(error)
        return error.exit_code
    except Exception as error:
        place = _place(error)
        if isinstance(error, FORESEEN) and _is_ours(error):
            typer.echo(f"rlhf: {place}{error}", err=True)
        elif _is_full_disk(error):
            again = "goes on from the last whole checkpoint" if _is_a_run_s(error) else "does it"
            told = f"no space left on the disk; free some, and the same command {again}"
            typer.echo(f"rlhf: {place}{told}", err=True)
        elif isinstance(error, OSError) and error.filename and _is_closed(error):
            reason = f"{error.filename}: {error.strerror}; check the path and who may use it"
            typer.echo(f"rlhf: {place}{reason}", err=True)
            return 2
        else:
            traceback.print_exc()
            return 1
        for note in getattr(error, "__notes__", ()):
            typer.echo(f"rlhf: {note}", err=True)
        return 2 if isinstance(error, ValueError) else 1


def _place(error: Exception) -> str:
    """Which process this is, where it is one of several and not the main one.

    What all have met the main one tells, and the launcher ends the others while they wait here. So
    it does with those that have lost another one, and says which.
    """
    rank = os.environ.get("RANK")
    if rank is None or (rank == "0" and not _is_of_another(error)):
        return ""
    time.sleep(MOMENT)
    return "" if rank == "0" else f"process {rank}: "


def _is_of_another(error: Exception) -> bool:
    """Whether this process has but lost its connection to another."""
    return any(
        isinstance(one, RuntimeError) and any(word in str(one) for word in LOST)
        for one in _chain(error)
    )


def _tell(error: typer.TyperException) -> None:
    """A wrong option or argument, in one line; nothing where help has been printed instead."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rlhf"
    if message:
        typer.echo(f"rlhf: {message}; see {command} --help", err=True)


def _is_closed(error: OSError) -> bool:
    return isinstance(error, CLOSED) or error.errno in NO_PATH


def _is_full_disk(error: Exception) -> bool:
    """Whichever library was writing: safetensors and torch have words of their own for it, and
    torch fails once more when it closes the file."""
    from rlhf.runtime.files import FULL

    words = ["No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing"]
    if "inline_container" in str(error):
        words.append("iostream error")
    return any(
        (isinstance(one, OSError) and one.errno in FULL) or any(word in str(one) for word in words)
        for one in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it came of, as a traceback shows them."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_a_run_s(error: Exception) -> bool:
    """Whether it came up in a run, which keeps checkpoints, and in no other command."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_code is stages._run.__code__ for frame in frames)


def _is_ours(error: Exception) -> bool:
    """Whether this project raised it, for the user to read; a library's is a fault of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    here = Path(__file__).resolve().parents[1]
    raised_in = Path(trace.tb_frame.f_code.co_filename).resolve() if trace is not None else Path()
    return here in raised_in.parents or here.parent / "stages" in raised_in.parents
