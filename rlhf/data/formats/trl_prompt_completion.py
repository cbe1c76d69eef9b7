"""TRL's prompt-completion data: `prompt` and `completion`, plain text or lists of messages."""

from __future__ import annotations

from rlhf.data.formats.messages import answer
from rlhf.data.formats.reading import Fields, Origin, demonstration, reader, rest
from rlhf.data.records import SFTRecord


@reader("trl-prompt-completion")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """The completion as the answer to the prompt."""
    prompt, of_prompt = answer(row, "prompt", role="user")
    completion, of_completion = answer(row, "completion")
    metadata = rest(row, "prompt", "completion") | of_prompt | of_completion
    return demonstration(origin, prompt + completion, metadata)
