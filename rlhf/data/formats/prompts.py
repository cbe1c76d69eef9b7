"""Prompts alone: TRL's `prompt`, or MOSS's `user_prompt`; text, or messages up to the user's."""

from __future__ import annotations

from rlhf.data.formats.messages import answer
from rlhf.data.formats.reading import Fields, Origin, reader, rest
from rlhf.data.records import PromptRecord


@reader("prompts")
def read(row: Fields, origin: Origin) -> PromptRecord:
    """The prompt; what else the row says, such as MOSS's own category, becomes metadata."""
    key = "prompt" if row.get("prompt") is not None else "user_prompt"
    turns, metadata = answer(row, key, role="user")
    fields = {"id": origin.id, "messages": turns, "metadata": rest(row, key) | metadata}
    return PromptRecord.model_validate(fields)
