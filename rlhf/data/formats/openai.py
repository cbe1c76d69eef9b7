"""OpenAI chat: `messages` of {role, content}, content being text or a list of text parts."""

from __future__ import annotations

from rlhf.data.formats.messages import conversation
from rlhf.data.formats.reading import Fields, Origin, demonstration, reader, rest
from rlhf.data.records import SFTRecord


@reader("openai")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """All turns; other keys of a message, such as its name, become metadata."""
    turns, metadata = conversation(row, "messages")
    return demonstration(origin, turns, rest(row, "messages") | metadata)
