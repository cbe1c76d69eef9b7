"""Conversations as lists of messages: ShareGPT's {from, value} and OpenAI's {role, content}."""

from __future__ import annotations

from typing import Any

from rlhf.data.formats.reading import Fields, Turn, objects, rest, structure, text, turn

# Capitals do not matter: "Human" is human.
ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
}


def conversation(row: Fields, key: str, name: str = "message") -> tuple[list[Turn], dict[str, str]]:
    """The turns of a list of messages, and what else these say: metadata `message_1.weight`."""
    turns: list[Turn] = []
    metadata: dict[str, str] = {}
    for number, message in enumerate(objects(row, key), start=1):
        said, others = _message(message, f"{name}_{number}.")
        # Exporters write an empty system turn where there was none.
        turns += [] if said == turn("system", "") else [said]
        metadata |= others
    return turns, metadata


def answer(row: Fields, key: str, role: str = "assistant") -> tuple[list[Turn], dict[str, str]]:
    """A field that is text of one role, a message or a list of messages; with the metadata."""
    if isinstance(row.get(key), list) or _is_cell(structure(row, key)):
        return conversation(row, key, key)
    if isinstance(row.get(key), dict):
        said, metadata = _message(row[key], f"{key}.")
        return [said], metadata
    return [turn(role, text(row, key))], {}


def _is_cell(value: Any) -> bool:
    """Whether the JSON in a table's cell is surely a list of messages, and no answer in JSON."""
    layouts = ({"role", "content"}, {"from", "value"})
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(each, dict) and any(layout <= each.keys() for layout in layouts)
            for each in value
        )
    )


def _message(message: Fields, prefix: str) -> tuple[Turn, dict[str, str]]:
    # Calls of tools have no place in a demonstration of plain turns.
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError("a message calls a tool")
    role_key = "role" if message.get("from") is None else "from"
    text_key = "content" if message.get("value") is None else "value"
    named = text(message, role_key)
    role = ROLES.get(named.strip().lower())
    if role is None:
        raise ValueError(f"role {named!r} is none of {', '.join(ROLES)}")
    if isinstance(message.get(text_key), list):
        content = "\n".join(_part(part) for part in objects(message, text_key))
    else:
        content = text(message, text_key)
    return turn(role, content), rest(message, role_key, text_key, prefix=prefix)


def _part(part: Fields) -> str:
    """Text of a content part."""
    if part.get("type") not in ("text", "input_text", "output_text"):
        raise ValueError(f"a content part is not text but {part.get('type')!r}")
    return text(part, "text")
