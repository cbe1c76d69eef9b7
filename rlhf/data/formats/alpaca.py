"""BELLE and alpaca: instruction, input, output; LLaMA-Factory's `system` and `history` as well."""

from __future__ import annotations

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    demonstration,
    optional_text,
    reader,
    rest,
    structure,
    system_turn,
    text,
    transcript,
    turn,
)
from rlhf.data.records import SFTRecord

QUESTION = ("system", "history", "instruction", "input")


@reader("alpaca")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """The answer to the question, after the earlier turns in `history`."""
    turns = [*question(row), turn("assistant", text(row, "output"))]
    return demonstration(origin, turns, rest(row, *QUESTION, "output"))


def question(row: Fields) -> list[Turn]:
    """The turns before the answer, from the fields QUESTION.

    BELLE's conversations of several turns lie in `instruction`: "Human: ...\\nAssistant: ...",
    up to the last "Assistant:".
    """
    turns = system_turn(optional_text(row, "system")) + _history(structure(row, "history"))
    asked = [text(row, "instruction"), optional_text(row, "input")]
    whole = "\n".join(part for part in asked if part.strip())
    if whole.startswith("Human:") and whole.rstrip().endswith("\nAssistant:"):
        return turns + transcript(whole, r"\n+")[:-1]
    return [*turns, turn("user", whole)]


def is_history(value: object) -> bool:
    """Whether it is earlier turns: a list of [question, answer]."""
    return isinstance(value, list) and all(
        isinstance(pair, list) and [type(each) for each in pair] == [str, str] for pair in value
    )


def _history(value: object) -> list[Turn]:
    if value is None:
        return []
    if not isinstance(value, list) or not is_history(value):
        raise ValueError("field 'history' must be a list of [question, answer]")
    roles = ("user", "assistant")
    return [turn(*said) for pair in value for said in zip(roles, pair, strict=True)]
