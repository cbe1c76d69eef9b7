"""Texts as sets of shingles, each shingle a 64-bit number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np
from numpy.typing import NDArray

TOKENS_A_SHINGLE = 3
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")
_WORDS_KEPT = 2_000_000  # hashes of words in memory, about 150 bytes each
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 over the golden ratio (Knuth)


def normalise(text: str) -> str:
    """Folds width, case and white space, none of which makes another text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def tokens(text: str) -> list[str]:
    """Of a normalised text: an ideograph or a word is one, punctuation does not count."""
    return _TOKEN.findall(text) or [text]


@dataclass(frozen=True)
class Shingles:
    """The shingles of some texts, end to end.

    values: [S] of all texts; a text's own are in any order and may repeat.
    starts: [texts + 1] where each text begins, and S.
    """

    values: NDArray[np.uint64]
    starts: NDArray[np.int64]

    def of(self, text: int) -> set[int]:
        """The set of shingles of one text, by its index."""
        return set(self.values[self.starts[text] : self.starts[text + 1]].tolist())

    @classmethod
    def join(cls, batches: Sequence[Shingles]) -> Shingles:
        """The texts of all batches, in order."""
        if not batches:
            return cls(np.empty(0, np.uint64), np.zeros(1, np.int64))
        sizes = np.concatenate([np.diff(batch.starts) for batch in batches])
        values = np.concatenate([batch.values for batch in batches])
        return cls(values, np.concatenate([[0], np.cumsum(sizes)]))


class Shingler:
    """Hashes tokens, each word once. Equal texts have equal shingles in every process."""

    def __init__(self) -> None:
        self._hashes = _Hashes()

    def __call__(self, normalised: Iterable[str]) -> Shingles:
        """Runs of three tokens of each text; a text of one or two tokens has one shingle.

        At least one text.
        """
        if len(self._hashes) > _WORDS_KEPT:
            self._hashes.clear()
        rows = [[self._hashes[token] for token in tokens(text)] for text in normalised]
        for row in rows:
            row += [0] * (TOKENS_A_SHINGLE - len(row))
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ends = np.cumsum(lengths)
        flat = np.fromiter(chain.from_iterable(rows), np.uint64, int(lengths.sum()))
        # A run over the end of a text would mix two texts: each text gives up its last runs.
        inside = np.ones(len(flat), bool)
        for back in range(1, TOKENS_A_SHINGLE):
            inside[ends - back] = False
        runs = len(flat) - TOKENS_A_SHINGLE + 1
        values = np.zeros(runs, np.uint64)
        for offset in range(TOKENS_A_SHINGLE):
            values = _mix(values ^ flat[offset : runs + offset])
        counts = lengths - (TOKENS_A_SHINGLE - 1)
        return Shingles(values[inside[:runs]], np.concatenate([[0], np.cumsum(counts)]))


class _Hashes(dict[str, int]):
    """The 64-bit hash of a token, kept once computed."""

    def __missing__(self, token: str) -> int:
        digest = blake2b(token.encode(errors="surrogatepass"), digest_size=8).digest()
        self[token] = value = int.from_bytes(digest, "little")
        return value


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection that spreads every bit; products are modulo 2**64."""
    values = values * _MULTIPLIER
    return values ^ (values >> np.uint64(32))
