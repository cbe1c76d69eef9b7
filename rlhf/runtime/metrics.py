"""What a stage shows and keeps of its run: metrics.jsonl, trackers, a progress bar, a table."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rlhf.runtime.distributed import Runtime, is_main_process
from rlhf.runtime.files import sync, write_text
from rlhf.runtime.trackers import Trackers

SAMPLES = "samples.jsonl"
LINE_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal to draw a bar in."""


class MetricsLog:
    """Rows of numbers by step, in `directory`/metrics.jsonl and in trackers; texts that show what
    the numbers are of, in `directory`/samples.jsonl.

    Only the main process writes. The first row logged says where the stage goes on: rows from that
    step on are of an earlier try, and are cut.
    """

    def __init__(self, directory: Path, trackers: Sequence[str] = (), flush: int = 1) -> None:
        """trackers: names from runtime.trackers. flush: rows between two writes to the disk.

        Raises ValueError when a tracker is not installed.
        """
        self._path = directory / "metrics.jsonl"
        self._samples = directory / SAMPLES
        self._trackers = Trackers(trackers, directory)
        self._flush = flush
        self._rows: list[str] = []
        self._started = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values that are not finite become null: JSON has no word for them."""
        if not is_main_process():
            return
        if not self._started:
            self._start(step)
        kept = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._rows.append(_line({"step": step, **kept}))
        if len(self._rows) >= self._flush:
            self._write()
        self._trackers.log(step, values)

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Texts of a step, with what belongs to each."""
        if not is_main_process():
            return
        if not self._started:
            self._start(step)
        _append(self._samples, [_line({"step": step, **row}) for row in rows])

    def rewind(self, step: int) -> None:
        """Cut the rows from `step` on: the stage goes back there. Trackers keep what they have."""
        if is_main_process():
            self._write()
            self._cut(step)

    def sync(self) -> None:
        """Force all rows to the disk, before a checkpoint is: who resumes from it logs none of them
        again."""
        if is_main_process():
            self._write()
            for path in (self._path, self._samples, self._path.parent):
                if path.exists():
                    sync(path)

    def close(self) -> None:
        self.sync()
        self._trackers.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, step: int) -> None:
        self._cut(step)
        self._trackers.start(step)
        self._started = True

    def _cut(self, step: int) -> None:
        for path in (self._path, self._samples):
            kept = [row for row in read_rows(path) if row["step"] < step]
            if path == self._path or path.exists():
                write_text(path, "".join(map(_line, kept)))

    def _write(self) -> None:
        if self._rows:
            _append(self._path, self._rows)
            self._rows = []


def _append(path: Path, lines: Sequence[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl, without a last one that a crash cut off; none without a file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # whole lines end in a newline


class Bar:
    """Progress of one stage with live fields: a bar in a terminal, else a line at times."""

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._console = console
        self._fields: dict[str, float] = {}
        self._next_line = time.monotonic() + LINE_EVERY
        self._printed = ""
        self._line = ""
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=None, shown="")

    def update(self, step: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        """Show that `step` of `total` is done; `fields` stay on show until they are given again."""
        self._fields |= fields or {}
        shown = " ".join(f"{name} {value:.4g}" for name, value in self._fields.items())
        self._bar.update(self._task, completed=step, total=total, shown=shown)
        self._line = f"{self._title} {step}/{total} {shown}".rstrip()
        if time.monotonic() >= self._next_line:
            self._print()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._print()

    def _print(self) -> None:
        if not self._console.is_terminal and self._line != self._printed:
            self._console.print(self._line, highlight=False, markup=False, soft_wrap=True)
            self._printed = self._line
        self._next_line = time.monotonic() + LINE_EVERY


def progress(title: str, runtime: Runtime) -> Bar:
    """A progress bar on the run's console, to be used in a `with`."""
    return Bar(title, runtime.console)


def stage_table(title: str, rows: Mapping[str, float | int | str | None]) -> Table:
    """A table of what a stage came to, to be printed at its end."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), _shown(value))
    return table


def _shown(value: float | int | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
