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
    system_turn,
    text,
    turn,
)
from rlhf.data.records import SFTRecord


@reader("alpaca")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """A single turn, after the earlier ones in `history`."""
    turns = system_turn(optional_text(row, "system")) + _history(row.get("history"))
    parts = [text(row, "instruction"), optional_text(row, "input")]
    question = "\n".join(part for part in parts if part.strip())
    turns += [turn("user", question), turn("assistant", text(row, "output"))]
    metadata = rest(row, "system", "history", "instruction", "input", "output")
    return demonstration(origin, turns, metadata)


def _history(value: object) -> list[Turn]:
    turns: list[Turn] = []
    if value is None:
        return turns
    for pair in value if isinstance(value, list) else [value]:
        if not isinstance(pair, list) or [type(each) for each in pair] != [str, str]:
            raise ValueError("field 'history' must be a list of [question, answer]")
        turns += [turn("user", pair[0]), turn("assistant", pair[1])]
    return turns
