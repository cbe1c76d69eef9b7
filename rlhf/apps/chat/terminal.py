"""The loop: a line is asked or obeyed, the answer is shown as it comes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rlhf.apps.chat.conversation import Conversation

HELP = """\
/system TEXT   set the system message; without TEXT, take it away
/reset         forget what was said
/save FILE     add the conversation to FILE, a line of JSON
/help          show this
/exit          leave; so does the end of the input
Ctrl-C cuts an answer short."""
COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
# What a model writes must not steer the terminal.
UNPRINTABLE = dict.fromkeys(
    {*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}"
)


class Left(Exception):
    """/exit was typed."""


class Terminal:
    """Commands and questions from the standard input; answers on the standard output.

    Where that is no terminal, a line is a turn, answers are plain text, and all else goes to the
    standard error or is left out.
    """

    def __init__(self, conversation: Conversation, console: Console) -> None:
        self.conversation, self.console = conversation, console
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
            yield from sys.stdin
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
            "help": lambda _: self._notice(HELP),
            "exit": self._exit,
        }
        name, rest = found[1], (found[2] or "").strip()
        if name in commands:
            commands[name](rest)
        else:
            self._notice(f"/{name}: no such command; /help shows them")

    def _answer(self, question: str) -> None:
        pieces = self.conversation.ask(question)
        if not self.interactive:
            for piece in pieces:
                if not piece.aside:
                    print(piece.text, end="", flush=True)
            print(flush=True)
            return
        self.console.print("[bold cyan]Model:[/] ", end="")
        try:
            for piece in pieces:
                text = Text(piece.text.translate(UNPRINTABLE), style="dim" if piece.aside else "")
                self.console.print(text, end="", soft_wrap=True)
            self.console.print()
        except KeyboardInterrupt:
            self._notice("\ncut short")

    def _system(self, text: str) -> None:
        before = self.conversation.system
        self.conversation.system = text
        try:
            self.conversation.check()
        except ValueError as error:
            self.conversation.system = before
            self._notice(str(error))
            return
        self._notice("system message set" if text else "no system message")

    def _reset(self, _: str) -> None:
        self.conversation.rounds.clear()
        self._notice("what was said is forgotten")

    def _save(self, file: str) -> None:
        if not file or not self.conversation.rounds:
            self._notice("/save FILE needs a file's name, and something said")
            return
        try:
            self.conversation.save(Path(file).expanduser())
        except OSError as error:
            self._notice(f"{file}: {error.strerror}")
            return
        self._notice(f"saved: {file}")

    def _exit(self, _: str) -> None:
        raise Left

    def _notice(self, text: str) -> None:
        self.notices.print(text, style="dim", markup=False, highlight=False)
