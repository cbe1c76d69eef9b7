"""ShareGPT: `conversations` of {from, value}, or its `conversation` of {human, assistant}."""

from __future__ import annotations

from rlhf.data.formats.messages import conversation
from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    demonstration,
    objects,
    optional_text,
    reader,
    rest,
    system_turn,
    text,
    turn,
)
from rlhf.data.records import SFTRecord


@reader("sharegpt")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """All turns; a `system` field goes first."""
    if row.get("conversations") is None and row.get("conversation") is not None:
        key, (turns, metadata) = "conversation", _pairs(row)
    else:
        key, (turns, metadata) = "conversations", conversation(row, "conversations")
    turns = system_turn(optional_text(row, "system")) + turns
    return demonstration(origin, turns, rest(row, "system", key) | metadata)


def _pairs(row: Fields) -> tuple[list[Turn], dict[str, str]]:
    turns: list[Turn] = []
    metadata: dict[str, str] = {}
    for number, pair in enumerate(objects(row, "conversation"), start=1):
        turns += [turn("user", text(pair, "human")), turn("assistant", text(pair, "assistant"))]
        metadata |= rest(pair, "human", "assistant", prefix=f"turn_{number}.")
    return turns, metadata
