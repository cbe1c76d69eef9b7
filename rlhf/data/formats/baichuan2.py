"""Baichuan 2's fine-tuning data: `conversations` of {from: human | gpt, value}."""

from __future__ import annotations

from rlhf.data.formats.messages import conversation
from rlhf.data.formats.reading import Fields, Origin, demonstration, reader, rest
from rlhf.data.records import SFTRecord


@reader("baichuan2")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """All turns."""
    turns, metadata = conversation(row, "conversations")
    return demonstration(origin, turns, rest(row, "conversations") | metadata)
