"""MOSS-003: `meta_instruction` and `chat` of turn_1, turn_2, ..., with plugins or without."""

from __future__ import annotations

import re

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    demonstration,
    optional_text,
    reader,
    rest,
    system_turn,
    text,
    turn,
)
from rlhf.data.records import SFTRecord

_TURN = re.compile(r"turn_(\d+)")
_MARKED = re.compile(r"\s*(?:<\|[\w ]+\|>:)?(.*?)(?:<eo[htcrm]>)?\s*", re.DOTALL)
_PLUGIN_PARTS = {
    "Inner Thoughts": "inner_thoughts",
    "Commands": "commands",
    "Tool Responses": "results",
}


@reader("moss-003")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """All turns as plain text. What plugins did goes to metadata: turn_1.commands and the like."""
    turns = system_turn(optional_text(row, "meta_instruction"))
    metadata = rest(row, "meta_instruction", "chat")
    for name, parts in _ordered(row.get("chat")):
        turns += [turn("user", _plain(parts, "Human")), turn("assistant", _plain(parts, "MOSS"))]
        for part, key in _PLUGIN_PARTS.items():
            content = _plain(parts, part) if part in parts else "None"
            if content != "None":
                metadata[f"{name}.{key}"] = content
        metadata |= rest(parts, "Human", "MOSS", *_PLUGIN_PARTS, prefix=f"{name}.")
    return demonstration(origin, turns, metadata)


def _ordered(chat: object) -> list[tuple[str, Fields]]:
    if not isinstance(chat, dict) or not all(isinstance(turn, dict) for turn in chat.values()):
        raise ValueError("field 'chat' must be an object of turns")
    numbered = {}
    for name, parts in chat.items():
        found = _TURN.fullmatch(name)
        if not found:
            raise ValueError(f"field 'chat' has {name!r} where turn_1, turn_2, ... were expected")
        numbered[int(found[1])] = (name, parts)
    if sorted(numbered) != list(range(1, len(chat) + 1)):
        raise ValueError(f"turns {sorted(numbered)} are not 1, 2, ... without a hole")
    return [numbered[number] for number in sorted(numbered)]


def _plain(parts: Fields, key: str) -> str:
    found = _MARKED.fullmatch(text(parts, key))
    assert found, "every text matches: all of the pattern is optional"
    return found[1].strip()
