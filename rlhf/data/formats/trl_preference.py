"""TRL's preference data: `chosen` and `rejected`, with `prompt` or with the prompt inside both."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from rlhf.data.formats import alpaca
from rlhf.data.formats.messages import answer
from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    comparison,
    reader,
    rest,
    structure,
    system_turn,
    turn,
)
from rlhf.data.records import RankingRecord

_OTHER_NAMES = ("instruction", "question", "query", "input")
_LETTER = r"[^\W\u3040-\u30ff\u3400-\u9fff]"  # where spaces stand between words
_MARK = "['’.,-]"  # as in don't, 10,000 and 3.14
_IN_WORD = re.compile(rf"(?<={_LETTER}){_MARK}?{_LETTER}|(?<={_LETTER}{_MARK}){_LETTER}")


@reader("trl-preference")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """Two answers to one prompt, each of the three either plain text or a list of messages.

    Many publish `prompt` under another name, and what the system says in a column of its own.
    """
    chosen, of_chosen = answer(row, "chosen")
    rejected, of_rejected = answer(row, "rejected")
    column = _column(row, chosen, rejected)
    prompt, used, of_prompt = _prompt(row, column)
    # Some publish the prompt twice: alone, and before the answer in both conversations.
    if all(each[:-1][-len(prompt) :] == prompt for each in (chosen, rejected)):
        prompt = []
    if column is None and [chosen, rejected] == [
        [turn("assistant", row[key])] for key in ("chosen", "rejected")
    ]:
        prompt, chosen, rejected = _split(row["chosen"], row["rejected"])
    elif _is_text(row, "system") and all(each["role"] != "system" for each in prompt + chosen):
        prompt = system_turn(row["system"]) + prompt
        used = (*used, "system")
    metadata = rest(row, *used, "chosen", "rejected") | of_chosen | of_rejected | of_prompt
    return comparison(origin, prompt + chosen, prompt + rejected, metadata)


def _column(row: Fields, chosen: Sequence[Turn], rejected: Sequence[Turn]) -> str | None:
    """The one that has the prompt; None where the answers have it, whether a column does or not."""
    if row.get("prompt") is not None:
        return "prompt"
    if len(chosen) > 1 or len(rejected) > 1:
        return None
    beginning = os.path.commonprefix([said["content"] for said in (*chosen, *rejected)])
    named = [name for name in _OTHER_NAMES if _is_text(row, name)]
    # Alpaca's input, beside an instruction, is what the answers are about.
    whole = [name for name in named if name != "input" or "instruction" not in named]
    within = any(row[name].strip() in beginning for name in whole)
    return None if within else next(iter(named), None)


def _is_text(row: Fields, name: str) -> bool:
    return isinstance(row.get(name), str) and bool(row[name].strip())


def _prompt(row: Fields, column: str | None) -> tuple[list[Turn], tuple[str, ...], dict[str, str]]:
    """The turns, the fields that they come from, and metadata."""
    if column is None:
        return [], (), {}
    if column == "instruction":
        fields = {name: row[name] for name in alpaca.QUESTION if _is_text(row, name)}
        fields.pop("history", None)
        if alpaca.is_history(history := structure(row, "history")):
            fields["history"] = history
        return alpaca.question(fields), tuple(fields), {}
    turns, metadata = answer(row, column, role="user")
    return turns, (column,), metadata


def _split(chosen: str, rejected: str) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Two texts that begin with the prompt: it, and the answers."""
    size = len(os.path.commonprefix([chosen, rejected]))
    # A word that both begin belongs to the answers, and as in TRL a space before them does.
    while any(_IN_WORD.match(each, size) for each in (chosen, rejected)):
        size -= 1
    size -= chosen[:size].endswith(" ")
    prompt, *ends = chosen[:size], chosen[size:], rejected[size:]
    return [turn("user", prompt)], [turn("assistant", ends[0])], [turn("assistant", ends[1])]
