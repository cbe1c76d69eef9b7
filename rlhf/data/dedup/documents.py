"""The documents of JSONL files: records of any kind, and lines that have just a text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field

from rlhf.data.jsonl import DamagedFile, Rejection, Text, parse, read_lines


class _Turn(BaseModel):
    role: str
    content: Text


class _Conversation(BaseModel):
    """What matters of a demonstration or a prompt."""

    id: str | None = None
    messages: Annotated[tuple[_Turn, ...], Field(min_length=1)]

    def whole(self) -> str:
        """All turns but the system's, which many conversations share."""
        return "\n".join(turn.content for turn in self.messages if turn.role != "system")

    def question(self) -> str:
        """What the user asked, all turns: the text that must not leak."""
        return "\n".join(turn.content for turn in self.messages if turn.role == "user")


class _Response(BaseModel):
    text: str


class _Ranking(BaseModel):
    """What matters of a ranking: its prompt with all answers."""

    id: str | None = None
    prompt: _Conversation
    responses: tuple[_Response, ...]

    def whole(self) -> str:
        return "\n".join([self.prompt.whole(), *(response.text for response in self.responses)])

    def question(self) -> str:
        return self.prompt.question()


class _Plain(BaseModel):
    """A line of plain text."""

    id: str | None = None
    text: Text

    def whole(self) -> str:
        return self.text

    def question(self) -> str:
        return self.text


Document = _Conversation | _Ranking | _Plain


class Line(NamedTuple):
    """A line of a file that is a document."""

    file: Path
    number: int
    raw: bytes
    document: Document

    @property
    def place(self) -> dict[str, object]:
        return {"id": self.document.id, "file": str(self.file), "line": self.number}


def read_documents(files: Iterable[Path], bad: list[Rejection] | None = None) -> Iterator[Line]:
    """The documents of the files; lines that are none are added to `bad`."""
    for file in files:
        try:
            for number, raw in read_lines(file):
                try:
                    yield Line(file, number, raw, _document(raw))
                except ValueError as error:
                    if bad is not None:
                        bad.append(Rejection.of(file, number, error, raw))
        except DamagedFile as damage:
            if bad is not None:
                bad.append(Rejection(str(file), damage.line, damage.reason, ""))


class _Keys(BaseModel):
    """The keys of a line itself, not of what is in it, that tell its kind."""

    messages: Any = None
    responses: Any = None


def _document(raw: bytes) -> Document:
    guess = _kind({key for key in ("messages", "responses") if f'"{key}"'.encode() in raw})
    try:
        return parse(raw, guess)
    except ValueError:
        # The quotes may be of a word, or of a key in the metadata. Seldom: read again for that.
        kind = _kind(parse(raw, _Keys).model_fields_set)
        if kind is guess:
            raise
    return parse(raw, kind)


def _kind(keys: Collection[str]) -> type[Document]:
    """What a line with these keys, at any depth, is: a ranking has the messages of its prompt."""
    if "responses" in keys:
        return _Ranking
    return _Conversation if "messages" in keys else _Plain
