"""OpenAI chat: `messages` of {role, content}, content being text or a list of text parts."""

from __future__ import annotations

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    demonstration,
    named_turn,
    objects,
    reader,
    rest,
    text,
)
from rlhf.data.records import SFTRecord

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


@reader("openai")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """All turns; other keys of a message, such as its name, become metadata."""
    metadata = rest(row, "messages")
    turns = []
    for number, message in enumerate(objects(row, "messages"), start=1):
        turns.append(message_turn(message))
        metadata |= rest(message, "role", "content", prefix=f"message_{number}.")
    return demonstration(origin, turns, metadata)


def message_turn(message: Fields) -> Turn:
    """One message. Calls of tools have no place in a demonstration of plain turns."""
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError("a message calls a tool")
    if isinstance(message.get("content"), list):
        parts = [_part(part) for part in objects(message, "content")]
        message = {**message, "content": "\n".join(parts)}
    return named_turn(message, "role", "content", ROLES)


def _part(part: Fields) -> str:
    if part.get("type") != "text":
        raise ValueError(f"a content part is not text but {part.get('type')!r}")
    return text(part, "text")
