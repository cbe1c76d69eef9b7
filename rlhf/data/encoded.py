"""What an encoded conversation is, in whichever chat format."""

from __future__ import annotations

from typing import NamedTuple

IGNORED = -100


class Encoded(NamedTuple):
    """A conversation for training: two lists of one length, -100 where nothing is learnt."""

    input_ids: list[int]
    labels: list[int]
