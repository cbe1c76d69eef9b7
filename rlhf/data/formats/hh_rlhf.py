r"""hh-rlhf: two transcripts with a common prefix, turns after "\n\nHuman:" and "\n\nAssistant:"."""

from __future__ import annotations

import re

from rlhf.data.formats.reading import Fields, Origin, Turn, comparison, reader, rest, text, turn
from rlhf.data.records import RankingRecord

_MARK = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@reader("hh-rlhf")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """Two answers to the conversation before the last assistant turn."""
    chosen, rejected = transcript(text(row, "chosen")), transcript(text(row, "rejected"))
    return comparison(origin, chosen, rejected, rest(row, "chosen", "rejected"))


def transcript(whole: str) -> list[Turn]:
    """The turns of a transcript, without the white space around them."""
    before, *pieces = _MARK.split(whole)
    if before.strip() or not pieces:
        raise ValueError("a transcript must start with Human: or Assistant:")
    return [turn(_ROLES[pieces[i]], pieces[i + 1].strip()) for i in range(0, len(pieces), 2)]
