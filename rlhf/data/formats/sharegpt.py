"""ShareGPT: `conversations` of {from, value}."""

from __future__ import annotations

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    demonstration,
    named_turn,
    objects,
    optional_text,
    reader,
    rest,
    system_turn,
)
from rlhf.data.records import SFTRecord

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
}


@reader("sharegpt")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """All turns; a `system` field goes first."""
    turns = system_turn(optional_text(row, "system")) + conversation(row)
    return demonstration(origin, turns, rest(row, "system", "conversations"))


def conversation(row: Fields) -> list[Turn]:
    """The turns of a `conversations` field."""
    messages = objects(row, "conversations")
    return [named_turn(message, "from", "value", ROLES) for message in messages]
