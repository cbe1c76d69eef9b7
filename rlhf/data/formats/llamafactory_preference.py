"""LLaMA-Factory's preference data: a prompt as in ShareGPT, OpenAI or alpaca, and two answers."""

from __future__ import annotations

from rlhf.data.formats import alpaca
from rlhf.data.formats.messages import answer, conversation
from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    comparison,
    optional_text,
    reader,
    rest,
    system_turn,
)
from rlhf.data.records import RankingRecord

_CONVERSATIONS = ("conversations", "messages")


@reader("llamafactory-preference")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """Two answers, `chosen` and `rejected`: each a message or its text. Older files have both in
    the list `output`, the better one first."""
    if row.get("chosen") is None and isinstance(row.get("output"), list):
        row = _named(row)
    prompt, used, metadata = _prompt(row)
    chosen, of_chosen = answer(row, "chosen")
    rejected, of_rejected = answer(row, "rejected")
    metadata |= rest(row, *used, "chosen", "rejected") | of_chosen | of_rejected
    return comparison(origin, prompt + chosen, prompt + rejected, metadata)


def _prompt(row: Fields) -> tuple[list[Turn], tuple[str, ...], dict[str, str]]:
    """The prompt's turns, the fields they come from, and metadata."""
    if row.get("instruction") is not None:
        return alpaca.question(row), alpaca.QUESTION, {}
    key = next((key for key in _CONVERSATIONS if row.get(key) is not None), "conversations")
    turns, metadata = conversation(row, key)
    return system_turn(optional_text(row, "system")) + turns, ("system", key), metadata


def _named(row: Fields) -> Fields:
    if len(row["output"]) != 2:
        raise ValueError(f"field 'output' has {len(row['output'])} answers where 2 were expected")
    others = {key: value for key, value in row.items() if key != "output"}
    return others | dict(zip(("chosen", "rejected"), row["output"], strict=True))
