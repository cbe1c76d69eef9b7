"""Texts as sets of shingles, each shingle a 52-bit number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import chain

import numpy as np
from numpy.typing import NDArray

TOKENS_A_SHINGLE = 3
BATCH = 4096
"""Texts that are taken at once; their shingles stay in the processor's cache."""
SHINGLE_BITS = 64 - 12
"""A text's number within its batch and a shingle fit in 64 bits, and are sorted as one."""
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = rf"[^\W{_IDEOGRAPHS}]"
# C++ and C# are words; in x+y the sign stands by itself, as in x + y.
_WORD = rf"{_LETTER}+(?:(?<!\d)[+#]+(?![+#]|{_LETTER}))?"
# The operator: between numbers, or not between characters of words. In state-of-the-art it is none.
_MINUS = r"-(?:(?!\w)|(?<!\w-)|(?<=\d-)(?=\d))"
_SYMBOLS = ("Sm", "Sc", "So")  # categories: mathematics, currencies, and others, such as emoji
_OPERATORS = "#%&*/@^"  # Unicode has them among punctuation and modifiers
_WORDS_KEPT = 2_000_000  # hashes of words in memory, about 150 bytes each
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 over the golden ratio (Knuth)


def normalise(text: str) -> str:
    """Folds width, case and white space, none of which makes another text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def tokens(text: str) -> list[str]:
    """Of a normalised text: an ideograph, a word or a run of symbols is one.

    Punctuation does not count. A text of nothing else is a token itself.
    """
    return _token().findall(text) or [text]


@cache
def _token() -> re.Pattern[str]:
    """Made when first used, from Unicode's own table, which has symbols up to U+1FFFF."""
    characters = map(chr, range(0x20000))
    symbols = [c for c in characters if c in _OPERATORS or unicodedata.category(c) in _SYMBOLS]
    low, high = (
        re.escape("".join(c for c in symbols if (c > "\uffff") == beyond))
        for beyond in (False, True)
    )
    # Characters over U+FFFF are searched one by one: for nothing else, then. White space, of which
    # there is most, is none of it.
    symbol = rf"[{low}]|(?![\0-\uffff])[{high}]|{_MINUS}"
    return re.compile(rf"[{_IDEOGRAPHS}]|{_WORD}|(?!\s)(?:{symbol})+")


@dataclass(frozen=True)
class Shingles:
    """The shingles of some texts, end to end.

    values: [S] of all texts; a text's own ascend, each once, and are at least one.
    starts: [texts + 1] where each text begins, and S.
    """

    values: NDArray[np.uint64]
    starts: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[texts] how many shingles each has."""
        return np.diff(self.starts)

    def of(self, text: int) -> NDArray[np.uint64]:
        """The shingles of one text, by its index."""
        return self.values[self.starts[text] : self.starts[text + 1]]

    @classmethod
    def join(cls, batches: Sequence[Shingles]) -> Shingles:
        """The texts of all batches, in order."""
        if not batches:
            return cls(np.empty(0, np.uint64), np.zeros(1, np.int64))
        sizes = np.concatenate([np.diff(batch.starts) for batch in batches])
        values = np.concatenate([batch.values for batch in batches])
        return cls(values, np.concatenate([[0], np.cumsum(sizes)]))


def ranges(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """begins[0], begins[0] + 1, ... as many as lengths[0], then those from begins[1], and so on."""
    ends = np.cumsum(lengths)
    return np.repeat(begins - ends + lengths, lengths) + np.arange(lengths.sum())


class Shingler:
    """Hashes tokens, each word once. Equal texts have equal shingles in every process."""

    def __init__(self) -> None:
        self._hashes = _Hashes()

    def __call__(self, normalised: Iterable[str]) -> Shingles:
        """Runs of three tokens of each text; a text of one or two tokens has one shingle.

        From one text to BATCH.
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
        return _sets(values[inside[:runs]], lengths - (TOKENS_A_SHINGLE - 1))


def _sets(values: NDArray[np.uint64], sizes: NDArray[np.int64]) -> Shingles:
    """Each text's shingles sorted, without repeats."""
    owners = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes) << np.uint64(SHINGLE_BITS)
    ordered = np.sort(owners | values >> np.uint64(64 - SHINGLE_BITS))
    ordered = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    owned = np.bincount((ordered >> np.uint64(SHINGLE_BITS)).astype(np.int64))
    starts = np.concatenate([[0], np.cumsum(owned)])
    return Shingles(ordered & np.uint64(2**SHINGLE_BITS - 1), starts)


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
