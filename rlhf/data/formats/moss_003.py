"""MOSS-003: `meta_instruction` and `chat` of turn_1, turn_2, ..., with plugins or without; with
`chosen` and `rejected` beside them, preferences."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    comparison,
    demonstration,
    optional_text,
    reader,
    rest,
    structure,
    system_turn,
    text,
    turn,
)
from rlhf.data.records import RankingRecord, SFTRecord

_TURN = re.compile(r"turn_(\d+)")
_MARKED = re.compile(r"\s*(?:<\|[\w ]+\|>:)?(.*?)(?:<eo[htcrm]>)?\s*", re.DOTALL)
_PLUGIN_PARTS = {
    "Inner Thoughts": "inner_thoughts",
    "Commands": "commands",
    "Tool Responses": "results",
}


@reader("moss-003")
def read(row: Fields, origin: Origin) -> SFTRecord | RankingRecord:
    """All turns as plain text, with what plugins did before each answer.

    The preference data of MOSS-003 was announced and never published. Here it is the same layout
    with `chosen` and `rejected`: two chats, or what MOSS does in the last turn, as its parts or as
    the text of the answer alone.
    """
    system = system_turn(optional_text(row, "meta_instruction"))
    metadata = rest(row, "meta_instruction", "chat", "chosen", "rejected")
    if row.get("chosen") is None and row.get("rejected") is None:
        turns, others = _turns(structure(row, "chat"))
        return demonstration(origin, system + turns, metadata | others)
    conversations: list[list[Turn]] = []
    for key in ("chosen", "rejected"):
        given = structure(row, key)
        whole = isinstance(given, dict) and "MOSS" not in given
        turns, others = _turns(given if whole else _answered(row, key))
        others |= turns[-1].pop("plugins", {})  # a response that is ranked is its text alone
        conversations.append(system + turns)
        metadata |= {f"{key}.{name}": value for name, value in others.items()}
    chosen, rejected = conversations
    return comparison(origin, chosen, rejected, metadata)


def _answered(row: Fields, key: str) -> Fields:
    """The row's chat, its last turn ending with the answer in a field."""
    chat = structure(row, "chat")
    name, last = _ordered(chat)[-1]
    ends = {each: structure(row, each) for each in ("chosen", "rejected")}
    parts = {k: end if isinstance(end, dict) else {"MOSS": text(row, k)} for k, end in ends.items()}
    if optional_text(last, "MOSS").strip() and last["MOSS"] not in (
        end.get("MOSS") for end in parts.values()
    ):
        raise ValueError(f"{name} has an answer that is neither chosen nor rejected")
    return {**chat, name: {**last, **parts[key]}}


def _turns(chat: object) -> tuple[list[Turn], dict[str, str]]:
    """The turns of a chat, and what else it holds as metadata."""
    turns: list[Turn] = []
    metadata: dict[str, str] = {}
    for name, parts in _ordered(chat):
        turns += [turn("user", _plain(parts, "Human")), turn("assistant", _plain(parts, "MOSS"))]
        if plugins := dict(_plugins(parts)):
            turns[-1]["plugins"] = plugins
        metadata |= rest(parts, "Human", "MOSS", *_PLUGIN_PARTS, prefix=f"{name}.")
    return turns, metadata


def _plugins(parts: Fields) -> Iterator[tuple[str, str]]:
    for part, key in _PLUGIN_PARTS.items():
        content = _plain(parts, part) if parts.get(part) is not None else ""
        if content not in ("", "None"):
            yield key, content


def _ordered(chat: object) -> list[tuple[str, Fields]]:
    """(name, parts) of the turns by their number. Tables have null for a turn that is not there."""
    if isinstance(chat, dict):
        chat = {name: parts for name, parts in chat.items() if parts is not None}
    if not isinstance(chat, dict) or not all(isinstance(turn, dict) for turn in chat.values()):
        raise ValueError("field 'chat' must be an object of turns")
    numbered = {}
    for name, parts in chat.items():
        found = _TURN.fullmatch(name)
        if not found:
            raise ValueError(f"field 'chat' has {name!r} where turn_1, turn_2, ... were expected")
        numbered[int(found[1])] = (name, parts)
    if not numbered or sorted(numbered) != list(range(1, len(chat) + 1)):
        raise ValueError(f"turns {sorted(numbered)} are not 1, 2, ... without a hole")
    return [numbered[number] for number in sorted(numbered)]


def _plain(parts: Fields, key: str) -> str:
    found = _MARKED.fullmatch(text(parts, key))
    assert found, "every text matches: all of the pattern is optional"
    return found[1].strip()
