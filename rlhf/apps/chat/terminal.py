"""The loop: a line is asked or obeyed, the answer is shown as it comes."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlhf.apps.chat.conversation import Conversation, Piece

HELP = """\
/system TEXT   set the system message; without TEXT, take it away
/reset         forget what was said
/save FILE     add the conversation to FILE, a line of JSON
/compare MODEL have this one answer too, side by side; without MODEL, no more
/help          show this
/exit          leave; so does the end of the input
Ctrl-C cuts an answer short."""
CUT_SHORT = "cut short"
COMMAND = re.compile(r"/([A-Za-z]+)(?:\s+(.*))?", re.DOTALL)
# What a model writes must not steer the terminal.
UNPRINTABLE = dict.fromkeys(
    {*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}"
)


class Left(Exception):
    """/exit was typed."""


class Terminal:
    """Commands and questions from the standard input; answers on the standard output.

    Where that is no terminal, a line that is neither blank nor a command is a turn, answers are
    plain text, both in UTF-8, and all else goes to the standard error or is left out. Where two
    models answer, each has a history of its own.

    open_other: a model to compare with; ValueError where it cannot be talked to. check_other: the
    same ValueError as far as files tell, before anything is loaded.
    """

    def __init__(
        self,
        conversation: Conversation,
        console: Console,
        open_other: Callable[[Path], Conversation],
        check_other: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self.conversations, self.console = [conversation], console
        self.open_other, self.check_other = open_other, check_other
        self.system: str | None = None  # what /system said last
        self.interactive = sys.stdin.isatty() and console.is_terminal
        self.notices = console if self.interactive else Console(stderr=True)

    def run(self) -> None:
        """Until the input ends, or /exit."""
        if self.interactive:
            self._notice("/help shows the commands.")
        with suppress(Left):
            for line in self._lines():
                if line.strip():
                    self._obey(line.strip())

    def _lines(self) -> Iterator[str]:
        if not self.interactive:
            _in_utf8(sys.stdin, sys.stdout)
            yield from _typed(sys.stdin)
            return
        with suppress(ImportError):
            import readline  # noqa: F401  (lines can then be edited, and called up again)
        with suppress(EOFError, KeyboardInterrupt):
            while True:
                yield input("You: ")
        self.console.print()

    def _obey(self, line: str) -> None:
        found = COMMAND.fullmatch(line)
        if found is None:
            self._answer(line)
            return
        commands: dict[str, Callable[[str], None]] = {
            "system": self._system,
            "reset": self._reset,
            "save": self._save,
            "compare": self._compare,
            "help": lambda _: self._notice(HELP),
            "exit": self._exit,
        }
        name, rest = found[1], (found[2] or "").strip()
        if name.lower() in commands:
            commands[name.lower()](rest)
        else:
            self._notice(f"/{name}: no such command; /help shows them")

    def _answer(self, question: str) -> None:
        if not self.interactive:
            for conversation in self.conversations:
                for piece in conversation.ask(question):
                    if not piece.aside:
                        print(piece.text, end="", flush=True)
                print(flush=True)
            return
        try:
            if len(self.conversations) == 1:
                self._show(self.conversations[0].ask(question))
            else:
                self._show_beside(question)
        except KeyboardInterrupt:
            self._notice(f"\n{CUT_SHORT}")

    def _show(self, pieces: Iterator[Piece]) -> None:
        self.console.print("[bold cyan]Model:[/] ", end="")
        for piece in pieces:
            self.console.print(_printable(piece), end="", soft_wrap=True)
        self.console.print()

    def _show_beside(self, question: str) -> None:
        """A column a model, one after the other: they share a device."""
        columns = [Text() for _ in self.conversations]
        table = Table.grid(padding=(0, 3), expand=True)
        for _ in columns:
            table.add_column(ratio=1, overflow="fold")  # Chinese has no spaces to break lines at
        table.add_row(*(Text(each.name, style="bold cyan") for each in self.conversations))
        table.add_row(*columns)
        with Live(table, console=self.console, vertical_overflow="ellipsis"):
            for conversation, column in zip(self.conversations, columns, strict=True):
                try:
                    for piece in conversation.ask(question):
                        column.append_text(_printable(piece))
                except KeyboardInterrupt:  # the next model is asked all the same
                    column.append(f"\n{CUT_SHORT}", style="dim")

    def _system(self, text: str) -> None:
        before = [conversation.system for conversation in self.conversations]
        try:
            for conversation in self.conversations:
                conversation.system = text
                conversation.check()
            self.system = text
        except ValueError as error:
            for conversation, system in zip(self.conversations, before, strict=True):
                conversation.system = system
            self._notice(str(error))
            return
        self._notice("system message set" if text else "no system message")

    def _reset(self, _: str) -> None:
        for conversation in self.conversations:
            conversation.rounds.clear()
        self._notice("what was said is forgotten")

    def _save(self, file: str) -> None:
        spoken = [each for each in self.conversations if each.rounds]
        if not file or not spoken:
            self._notice("/save FILE needs a file's name, and something said")
            return
        try:
            for conversation in spoken:
                conversation.save(_place(file))
        except (OSError, ValueError) as error:
            self._notice(f"{file}: {getattr(error, 'strerror', None) or error}")
            return
        self._notice(f"saved: {file}")

    def _compare(self, model: str) -> None:
        first, several = self.conversations[0], len(self.conversations) > 1
        try:
            if model:
                self.check_other(_place(model))
            del self.conversations[1:]  # before another takes its place in memory
            if not model:
                self._notice(f"{first.name} alone")
                return
            other = self.open_other(_place(model))
            if self.system is not None:
                other.system = self.system
                other.check()
        except (ValueError, torch.OutOfMemoryError) as error:
            self._notice(str(error).partition("\n")[0])
            if several and len(self.conversations) == 1:
                self._notice(f"{first.name} alone")
            return
        other.rounds = list(first.rounds)
        self.conversations.append(other)
        self._notice(f"{first.name} and {other.name} answer; both have heard what was said so far")

    def _exit(self, _: str) -> None:
        raise Left

    def _notice(self, text: str) -> None:
        self.notices.print(text, style="dim", markup=False, highlight=False)


def _printable(piece: Piece) -> Text:
    return Text(piece.text.translate(UNPRINTABLE), style="dim" if piece.aside else "")


def _place(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: no such user's home") from None


def _in_utf8(*streams: TextIO) -> None:
    """As files of this project are, whatever the environment says."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _typed(stream: Iterable[str]) -> Iterator[str]:
    """The lines. Raises ValueError at one that is not UTF-8, whether the stream minds or not."""
    read = 0
    try:
        for line in stream:
            line.encode()
            yield line
            read += 1
    except UnicodeError:
        raise ValueError(f"line {read + 1} of the questions is not UTF-8; convert them") from None
