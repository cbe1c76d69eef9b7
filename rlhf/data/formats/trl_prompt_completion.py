"""TRL's prompt-completion data: `prompt` and `completion`, plain text or lists of messages."""

from __future__ import annotations

from rlhf.data.formats.reading import Fields, Origin, demonstration, reader, rest, text, turn
from rlhf.data.formats.trl_preference import spoken
from rlhf.data.records import SFTRecord


@reader("trl-prompt-completion")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """The completion as the answer to the prompt."""
    if isinstance(row.get("prompt"), str):
        turns = [turn("user", text(row, "prompt")), turn("assistant", text(row, "completion"))]
    else:
        turns = spoken(row, "prompt") + spoken(row, "completion")
    return demonstration(origin, turns, rest(row, "prompt", "completion"))
