"""How much of a document, of its paragraphs and of its sentences, other documents have as well."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

LEVELS = ("document", "paragraphs", "sentences")
# After the marks of both languages; a full stop ends a sentence before white space only (3.14).
_SENTENCE_END = re.compile(r"(?<=[。!?…])|(?<=\.)\s|\n")


Scores = dict[str, float]
"""Of one document: the share of each level that is, word for word, in another document too.

The document's own is 0 or 1, the others from 0 to 1; a repeat inside one document does not count.
"""


class RepeatCounter:
    """Collects hashes of documents and their parts, 8 bytes each, then scores every document."""

    def __init__(self) -> None:
        self._hashes: tuple[bytearray, ...] = tuple(bytearray() for _ in LEVELS)
        self._counts: tuple[list[int], ...] = tuple([] for _ in LEVELS)

    def add(self, text: str) -> None:
        """Adds the next document."""
        for hashes, counts, parts in zip(self._hashes, self._counts, levels_of(text), strict=True):
            counts.append(len(parts))
            for part in parts:
                hashes += blake2b(part.encode(errors="surrogatepass"), digest_size=8).digest()

    def scores(self) -> Iterator[Scores]:
        """One a document, in the order they were added."""
        shares = [
            _repeated(np.frombuffer(hashes, np.uint64), np.asarray(counts, np.int64))
            for hashes, counts in zip(self._hashes, self._counts, strict=True)
        ]
        rows = np.stack(shares, axis=1).round(4).tolist()
        return (dict(zip(LEVELS, row, strict=True)) for row in rows)


def levels_of(text: str) -> tuple[list[str], list[str], list[str]]:
    """The document, its paragraphs (lines) and its sentences, normalised, none of them empty."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return (
        _folded([folded]),
        _folded(folded.splitlines()),
        _folded(_SENTENCE_END.split(folded)),
    )


def _folded(parts: list[str]) -> list[str]:
    return [folded for part in parts if (folded := " ".join(part.split()))]


def _repeated(hashes: NDArray[np.uint64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """[documents] share of a document's parts that another document has; 0 when it has no part.

    Args:
        hashes: [parts] of all documents, end to end. counts: [documents] parts of each.
    """
    owners = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((owners, hashes))
    sorted_hashes, sorted_owners = hashes[order], owners[order]
    first = np.concatenate([[True], sorted_hashes[1:] != sorted_hashes[:-1]])[: len(hashes)]
    begins = np.flatnonzero(first)
    ends = np.append(begins, len(hashes))[1:]
    # Owners ascend within a run of equal hashes: two documents when first and last differ.
    shared_runs = sorted_owners[begins] != sorted_owners[ends - 1]
    shared = np.empty(len(hashes))
    shared[order] = np.repeat(shared_runs, ends - begins)
    sums = np.bincount(owners, weights=shared, minlength=len(counts))
    share: NDArray[np.float64] = sums / np.maximum(counts, 1)
    return share
