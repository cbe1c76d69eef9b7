"""Exact and near duplicates of Chinese and English text.

Two texts are as similar as the Jaccard index of their shingles. MinHash (Broder 1997) with
locality-sensitive hashing finds candidates; each is verified, so that a reported index is exact and
only recall is approximate.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

_TOKENS_A_SHINGLE = 3
_PERMUTATIONS = 128
_RECALL = 0.99  # of pairs just at the threshold; those above it are found more surely
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")


class NearDuplicate(NamedTuple):
    """Two texts by index, and the Jaccard index of their shingles."""

    first: int
    second: int
    jaccard: float


def normalise(text: str) -> str:
    """Folds width, case and white space, none of which makes another text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> frozenset[str]:
    """Runs of three tokens; an ideograph or a word is one, punctuation does not count."""
    normal = normalise(text)
    tokens = _TOKEN.findall(normal) or [normal]
    starts = range(max(1, len(tokens) - _TOKENS_A_SHINGLE + 1))
    return frozenset(" ".join(tokens[i : i + _TOKENS_A_SHINGLE]) for i in starts)


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    return len(first & second) / len(first | second)


def near_duplicates(
    train: Sequence[str], held_out: Sequence[str], threshold: float
) -> list[NearDuplicate]:
    """Pairs (train index, held-out index) whose Jaccard index reaches the threshold, sorted."""
    index = NearDuplicateIndex(threshold)
    for position, text in enumerate(train):
        index.add(position, text)
    pairs = [
        NearDuplicate(first, second, similarity)
        for second, text in enumerate(held_out)
        for first, similarity in index.similar(text)
    ]
    return sorted(pairs)


def deduplicate(texts: Sequence[str], threshold: float) -> tuple[list[int], list[NearDuplicate]]:
    """Keeps the first of every set of duplicates.

    Returns:
        Indices of the kept texts, and for each dropped one (kept index, its index, Jaccard index).
    """
    index = NearDuplicateIndex(threshold)
    originals: dict[str, tuple[int, float]] = {}  # spares the index the many exact copies
    kept: list[int] = []
    dropped: list[NearDuplicate] = []
    for position, text in enumerate(texts):
        normal = normalise(text)
        if normal not in originals:
            similar = index.similar(text)
            originals[normal] = max(similar, key=itemgetter(1), default=(position, 1.0))
            if not similar:
                index.add(position, text)
                kept.append(position)
                continue
        first, similarity = originals[normal]
        dropped.append(NearDuplicate(first, position, similarity))
    return kept, dropped


class NearDuplicateIndex:
    """Texts that can be asked for those similar to another."""

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"near-duplicate threshold {threshold}: use one above 0, at most 1")
        self._threshold = threshold
        self._shingles: dict[int, frozenset[str]] = {}
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))

    def add(self, key: int, text: str) -> None:
        """Adds a text under a key that is not in use."""
        self._shingles[key] = shingles(text)
        self._lsh.insert(key, _signature(self._shingles[key]), check_duplication=False)

    def similar(self, text: str) -> list[tuple[int, float]]:
        """(key, Jaccard index) of the added texts that reach the threshold, by key."""
        own = shingles(text)
        candidates = sorted(self._lsh.query(_signature(own)))
        found = [(key, jaccard(self._shingles[key], own)) for key in candidates]
        return [(key, similarity) for key, similarity in found if similarity >= self._threshold]


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band): as many rows, so as few false candidates, as the recall allows."""
    shapes = [(_PERMUTATIONS // rows, rows) for rows in range(1, _PERMUTATIONS // 2 + 1)]
    reaching = [
        (bands, rows) for bands, rows in shapes if 1 - (1 - threshold**rows) ** bands >= _RECALL
    ]
    return reaching[-1] if reaching else shapes[0]


def _signature(own: frozenset[str]) -> MinHash:
    signature = MinHash(num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
    signature.update_batch([shingle.encode() for shingle in own])
    return signature
