"""Texts that end a response, found in what its tokens say: token borders fall where they like."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

# Steps between two looks of the fast engines: a response may run on in between, and is cut later.
LOOK_EVERY = 4
# A character is four tokens at most, when each of them is a byte.
BYTES = 4
MARGIN = 16


class Stops:
    """The strings that end a response, and the tokenizer that says what its tokens mean.

    strings: one at least, none empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._strings = strings
        self._tail = BYTES * max(map(len, strings)) + LOOK_EVERY + MARGIN

    def find(self, token_ids: Sequence[int]) -> tuple[int, str] | None:
        """Where a response ends, and by which string; None where none of them is in it.

        Args:
            token_ids: of the response, what an engine sampled beyond its end included.

        Returns:
            How many tokens there are up to the one that completes a string, and that string; of
            several that are complete by then, the one that begins first, the longest of those.
        """
        if self._first(token_ids) is None:
            return None
        found = bisect_left(
            range(len(token_ids) + 1), True, key=lambda n: self._first(token_ids[:n]) is not None
        )
        string = self._first(token_ids[:found])
        assert string is not None, "what is said of the first tokens does not change with the next"
        return found, string

    def reached(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Which responses have come to an end.

        A whole response is read only where its last tokens say one of the strings.

        Args:
            tokens: [B, R] of the responses so far.
            lengths: B, how many of a row's tokens are its own.

        Returns:
            [B] boolean, on the device of the tokens.
        """
        rows = (row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True))
        found = [
            self._first(row[-self._tail :]) is not None and self._first(row) is not None
            for row in rows
        ]
        return torch.tensor(found, dtype=torch.bool, device=tokens.device)

    def _first(self, token_ids: Sequence[int]) -> str | None:
        text = said(self._tokenizer, token_ids)
        places = [(text.index(each), -len(each), each) for each in self._strings if each in text]
        return min(places)[2] if places else None


def said(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """What tokens say, special ones left out."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
