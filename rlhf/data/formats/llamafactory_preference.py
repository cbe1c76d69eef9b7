"""LLaMA-Factory's preference data: `conversations`, `chosen`, `rejected` of {from, value}."""

from __future__ import annotations

from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    comparison,
    named_turn,
    optional_text,
    reader,
    rest,
    system_turn,
)
from rlhf.data.formats.sharegpt import ROLES, conversation
from rlhf.data.records import RankingRecord


@reader("llamafactory-preference")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """Two answers to one conversation."""
    prompt = system_turn(optional_text(row, "system")) + conversation(row)
    chosen, rejected = (_answer(row, key) for key in ("chosen", "rejected"))
    metadata = rest(row, "system", "conversations", "chosen", "rejected")
    return comparison(origin, [*prompt, chosen], [*prompt, rejected], metadata)


def _answer(row: Fields, key: str) -> Turn:
    if not isinstance(row.get(key), dict):
        raise ValueError(f"field {key!r} must be an object of from and value")
    return named_turn(row[key], "from", "value", ROLES)
