"""TRL's preference data: `chosen` and `rejected`, with `prompt` or with the prompt inside both."""

from __future__ import annotations

import os

from rlhf.data.formats.openai import message_turn
from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    comparison,
    objects,
    reader,
    rest,
    text,
    turn,
)
from rlhf.data.records import RankingRecord


@reader("trl-preference")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """Two answers to one prompt, all three either plain text or lists of messages."""
    metadata = rest(row, "prompt", "chosen", "rejected")
    if isinstance(row.get("chosen"), str):
        prompt, chosen, rejected = _plain(row)
    else:
        prompt, chosen, rejected = _conversation(row)
    return comparison(origin, prompt + chosen, prompt + rejected, metadata)


def spoken(row: Fields, key: str) -> list[Turn]:
    """The turns of a field that is a list of messages."""
    return [message_turn(message) for message in objects(row, key)]


def _conversation(row: Fields) -> tuple[list[Turn], list[Turn], list[Turn]]:
    chosen, rejected = spoken(row, "chosen"), spoken(row, "rejected")
    if row.get("prompt") is None:
        prompt = []
    elif isinstance(row["prompt"], str):
        prompt = [turn("user", row["prompt"])]
    else:
        prompt = spoken(row, "prompt")
    # Some publish the prompt twice: alone, and at the head of both conversations.
    if chosen[: len(prompt)] == rejected[: len(prompt)] == prompt:
        prompt = []
    return prompt, chosen, rejected


def _plain(row: Fields) -> tuple[list[Turn], list[Turn], list[Turn]]:
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    if row.get("prompt") is not None:
        prompt = text(row, "prompt")
    else:
        prompt = os.path.commonprefix([chosen, rejected])
        # As in TRL, a space before the first difference belongs to the answers.
        prompt = prompt.removesuffix(" ")
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return [turn("user", prompt)], [turn("assistant", chosen)], [turn("assistant", rejected)]
