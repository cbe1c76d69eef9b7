"""Baichuan 2's fine-tuning data: `conversations` of {from: human | gpt, value}."""

from __future__ import annotations

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    demonstration,
    named_turn,
    objects,
    reader,
    rest,
)
from rlhf.data.records import SFTRecord

ROLES = {"human": "user", "gpt": "assistant", "assistant": "assistant"}


@reader("baichuan2")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """All turns."""
    messages = objects(row, "conversations")
    turns = [named_turn(message, "from", "value", ROLES) for message in messages]
    return demonstration(origin, turns, rest(row, "conversations"))
