r"""hh-rlhf: two transcripts with a common prefix, turns after "\n\nHuman:" and "\n\nAssistant:"."""

from __future__ import annotations

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    comparison,
    reader,
    rest,
    text,
    transcript,
    turn,
)
from rlhf.data.records import RankingRecord


@reader("hh-rlhf")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """Two answers to the conversation before the last assistant turn.

    fnlp/hh-rlhf-strength-cleaned has lists of turns in place of the transcripts.
    """
    chosen, rejected = dialogue(row, "chosen"), dialogue(row, "rejected")
    return comparison(origin, chosen, rejected, rest(row, "chosen", "rejected"))


def dialogue(row: Fields, key: str) -> list[Turn]:
    """The turns of a transcript, or of a list of texts that take turns and end with the answer."""
    said = row.get(key)
    if not isinstance(said, list):
        return transcript(text(row, key), r"\r?\n\r?\n")
    if not all(isinstance(each, str) for each in said):
        raise ValueError(f"field {key!r} must be a list of texts")
    if said and all(each.lstrip().startswith(("Human:", "Assistant:")) for each in said):
        return [each for part in said for each in transcript(part, r"(?!)")]
    roles = ["user", "assistant"]
    return [turn(roles[(len(said) - i) % 2], each.strip()) for i, each in enumerate(said)]
