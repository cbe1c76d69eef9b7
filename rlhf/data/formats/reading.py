"""What the readers share: their registry, access to fields, and the records they make."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.fields import UNKNOWN
from rlhf.data.records import PromptRecord, RankingRecord, SFTRecord

Fields = Mapping[str, Any]
Turn = dict[str, Any]  # a Message, validated when the record is made


@dataclass(frozen=True)
class Origin:
    """Where a row comes from: the record's id, and the file's name in the input."""

    id: str
    source: str


Reader = Callable[[Fields, Origin], SFTRecord | PromptRecord | RankingRecord]
READERS: dict[str, Reader] = {}


def reader(name: str) -> Callable[[Reader], Reader]:
    """Registers the reader of a format. It raises ValueError with the reason to reject a row."""

    def register(read: Reader) -> Reader:
        assert name not in READERS, f"two readers for {name}"
        READERS[name] = read
        return read

    return register


def text(fields: Fields, key: str) -> str:
    """A field that must be there and be text."""
    if key not in fields:
        raise ValueError(f"field {key!r} is missing")
    if fields[key] is None:
        raise ValueError(f"field {key!r} is null")
    if not isinstance(fields[key], str):
        raise ValueError(f"field {key!r} is not text but {type(fields[key]).__name__}")
    return str(fields[key])


def optional_text(fields: Fields, key: str) -> str:
    """A field that may be missing or null, which gives empty text."""
    return "" if fields.get(key) is None else text(fields, key)


def structure(fields: Fields, key: str) -> Any:
    """A field that is no text but lists and objects; a table's cell may have them as JSON."""
    value = fields.get(key)
    if isinstance(value, str):
        try:
            return json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            return value
    return value


def objects(fields: Fields, key: str) -> list[Fields]:
    """A field that must be a list of objects."""
    value = structure(fields, key)
    if value is None:
        raise ValueError(f"field {key!r} is missing")
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"field {key!r} must be a list of objects")
    return value


def rest(fields: Fields, *used: str, prefix: str = "") -> dict[str, str]:
    """The fields that a reader does not use, as metadata, so that nothing is lost."""
    return {
        prefix + key: value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in fields.items()
        if key not in used and value is not None and value != ""
    }


def turn(role: str, content: str) -> Turn:
    """One message."""
    return {"role": role, "content": content}


def system_turn(content: str) -> list[Turn]:
    """A system message, or nothing when there is no text for one."""
    return [turn("system", content)] if content.strip() else []


def transcript(whole: str, separator: str) -> list[Turn]:
    """The turns of "Human: ... Assistant: ...", without the white space around them.

    Args:
        separator: pattern of what comes between two turns.
    """
    mark = rf"(?:\A\s*|{separator})(Human|Assistant):"
    before, *pieces = re.split(mark, whole)
    if before.strip() or not pieces:
        raise ValueError("a transcript must start with Human: or Assistant:")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [turn(roles[pieces[i]], pieces[i + 1].strip()) for i in range(0, len(pieces), 2)]


def demonstration(origin: Origin, turns: Sequence[Turn], metadata: dict[str, str]) -> SFTRecord:
    """A record of a conversation that ends with the assistant."""
    fields = {"id": origin.id, "messages": turns, "source": origin.source, "metadata": metadata}
    return SFTRecord.model_validate(fields)


def prompt_id(messages: Sequence[Turn]) -> str:
    """The same for equal roles and contents, in whatever row and file: what is reckoned by prompt
    knows by it which rankings belong together."""
    said = json.dumps([[each["role"], each["content"]] for each in messages])
    return f"prompt-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def ranking(
    origin: Origin,
    prompt: Sequence[Turn],
    texts: Sequence[str],
    ranks: Sequence[int],
    metadata: dict[str, str],
    annotator: str | None = None,
    time: str | None = None,
) -> RankingRecord:
    """A record of ranked responses whose models nobody wrote down. Its prompt's id is of what the
    prompt says; the record's own is of the row."""
    if not all(content.strip() for content in texts):
        raise ValueError("a response is empty")
    unknown = dict.fromkeys(("family", "model", "size", "stage"), UNKNOWN)
    responses = [
        {"id": str(number), "text": content, "provenance": unknown}
        for number, content in enumerate(texts, start=1)
    ]
    fields = {
        "id": origin.id,
        "prompt": {"id": prompt_id(prompt), "messages": prompt, "metadata": metadata},
        "responses": responses,
        "ranks": ranks,
        "annotator": annotator,
        "time": time,
    }
    return RankingRecord.model_validate(fields)


def comparison(
    origin: Origin, chosen: Sequence[Turn], rejected: Sequence[Turn], metadata: dict[str, str]
) -> RankingRecord:
    """A record of two conversations that differ in the assistant's last turn only."""
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same")
    if not chosen or not rejected or chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected differ before the last turn")
    if (chosen[-1]["role"], rejected[-1]["role"]) != ("assistant", "assistant"):
        raise ValueError("chosen and rejected must both end with the assistant")
    answers = [chosen[-1]["content"], rejected[-1]["content"]]
    return ranking(origin, chosen[:-1], answers, [1, 2], metadata)
