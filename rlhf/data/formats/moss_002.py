"""MOSS-002: `plain_text` of "[Human]: ...<eoh> [MOSS]: ...<eoa>"; `prefix` is the system text."""

from __future__ import annotations

import re

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    demonstration,
    optional_text,
    reader,
    rest,
    system_turn,
    text,
    turn,
)
from rlhf.data.records import SFTRecord

_TURN = re.compile(r"\s*\[(Human|MOSS)\]:\s*(.*?)\s*<(?:eoh|eoa|eom)>\s*", re.DOTALL)
_ROLES = {"Human": "user", "MOSS": "assistant"}


@reader("moss-002")
def read(row: Fields, origin: Origin) -> SFTRecord:
    """All turns."""
    turns = system_turn(optional_text(row, "prefix")) + _turns(text(row, "plain_text"))
    return demonstration(origin, turns, rest(row, "prefix", "plain_text"))


def _turns(plain: str) -> list[Turn]:
    turns, position = [], 0
    while found := _TURN.match(plain, position):
        turns.append(turn(_ROLES[found[1]], found[2]))
        position = found.end()
    if position < len(plain) or not turns:
        raise ValueError(f"field 'plain_text' is no marked turn from character {position} on")
    return turns
