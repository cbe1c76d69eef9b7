"""TRL's preference data: `chosen` and `rejected`, with `prompt` or with the prompt inside both."""

from __future__ import annotations

import os

from rlhf.data.formats.messages import answer
from rlhf.data.formats.reading import (
    Fields,
    Origin,
    Turn,
    comparison,
    reader,
    rest,
    turn,
)
from rlhf.data.records import RankingRecord


@reader("trl-preference")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """Two answers to one prompt, each of the three either plain text or a list of messages."""
    chosen, of_chosen = answer(row, "chosen")
    rejected, of_rejected = answer(row, "rejected")
    ends = {"chosen": chosen, "rejected": rejected}
    metadata = rest(row, "prompt", "chosen", "rejected") | of_chosen | of_rejected
    if row.get("prompt") is not None:
        prompt, of_prompt = answer(row, "prompt", role="user")
        metadata |= of_prompt
        # Some publish the prompt twice: alone, and before the answer in both conversations.
        if all(each[:-1][-len(prompt) :] == prompt for each in ends.values()):
            prompt = []
    elif all(said == [turn("assistant", row[key])] for key, said in ends.items()):
        return _split(origin, row["chosen"], row["rejected"], metadata)
    else:
        prompt = []
    return comparison(origin, prompt + chosen, prompt + rejected, metadata)


def _split(origin: Origin, chosen: str, rejected: str, metadata: dict[str, str]) -> RankingRecord:
    """Two texts that begin with the prompt."""
    # As in TRL, a space before the first difference belongs to the answers.
    common = os.path.commonprefix([chosen, rejected]).removesuffix(" ")
    ends: list[Turn] = [turn("assistant", each[len(common) :]) for each in (chosen, rejected)]
    prompt = turn("user", common)
    return comparison(origin, [prompt, ends[0]], [prompt, ends[1]], metadata)
