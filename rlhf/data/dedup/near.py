"""Near duplicates within a set of texts and between two sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf.data.dedup.prefixes import SLACK, needed, prefixes
from rlhf.data.dedup.shingles import BATCH, Shingler, Shingles, normalise, ranges

_AT_ONCE = 2**20  # shingles that are compared with a text's, 8 bytes each


class NearDuplicate(NamedTuple):
    """Two texts by index; the Jaccard index of their shingles, or the cosine of their vectors."""

    first: int
    second: int
    similarity: float


Similar = tuple[NDArray[np.int64], NDArray[np.floating[Any]]]
"""The texts that one is like, by index, and how much."""


def near_duplicates(
    train: Iterable[str], held_out: Iterable[str], threshold: float
) -> list[NearDuplicate]:
    """Pairs (train index, held-out index) whose Jaccard index reaches the threshold, sorted."""
    return sorted(
        NearDuplicate(first, second, similarity)
        for second, (firsts, similarities) in enumerate(similar_of_each(train, held_out, threshold))
        for first, similarity in zip(firsts.tolist(), similarities.tolist(), strict=True)
    )


def similar_of_each(
    train: Iterable[str], held_out: Iterable[str], threshold: float
) -> Iterator[Similar]:
    """For each held-out text the training texts, ascending, that reach the threshold, and their
    Jaccard indices: where many texts are alike, all pairs together may not go into memory."""
    held = list(held_out)
    index = NearDuplicateIndex(chain(train, held), threshold)
    trained = len(index) - len(held)
    for position in range(trained):
        index.add(position)
    for second in range(len(held)):
        yield index.similar(trained + second)


def deduplicate(texts: Iterable[str], threshold: float) -> tuple[list[int], list[NearDuplicate]]:
    """Keeps the first of every set of duplicates.

    Returns:
        Indices of the kept texts, and for each dropped one (kept index, its index, Jaccard index)
        with the closest text kept before it.
    """
    index = NearDuplicateIndex(texts, threshold)
    kept: list[int] = []
    dropped: list[NearDuplicate] = []
    for position in range(len(index)):
        others, similarities = index.similar(position)
        if len(others):
            closest = np.argmax(similarities)
            dropped.append(
                NearDuplicate(int(others[closest]), position, float(similarities[closest]))
            )
        else:
            index.add(position)
            kept.append(position)
    return kept, dropped


class NearDuplicateIndex:
    """Texts by position, each of which can be added and asked for those added that are similar.

    All are hashed at once, as a stream; what stays in memory is 8 bytes a shingle, and about 40 for
    each of the rarest that another text has among its rarest too.

    Raises:
        ValueError: the threshold is not above 0 and at most 1.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"near-duplicate threshold {threshold}: use one above 0, at most 1")
        self._threshold = threshold
        self._shingles = _shingles(texts)
        self._sizes = self._shingles.sizes
        owners, buckets = _shared_buckets(*prefixes(self._shingles, threshold))
        # The buckets of a text are _buckets[_starts[text] : _starts[text + 1]].
        self._buckets = buckets[np.argsort(owners, kind="stable")]
        self._starts = np.searchsorted(np.sort(owners), np.arange(len(self) + 1))
        # The texts added to a bucket are _added[_begins[bucket] :], as many as _filled[bucket].
        room = np.bincount(buckets)
        self._begins = np.cumsum(room) - room
        self._filled = np.zeros_like(room)
        self._added = np.empty(len(buckets), np.int64)

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, position: int) -> None:
        """Adds a text, once."""
        buckets = self._buckets_of(position)
        if len(buckets):
            self._added[self._begins[buckets] + self._filled[buckets]] = position
            self._filled[buckets] += 1

    def similar(self, position: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions, ascending, of the added texts that reach the threshold; Jaccard indices."""
        return self.alike(position, self.candidates(position))

    def candidates(self, position: int) -> NDArray[np.int64]:
        """Positions, ascending, of the added texts that may reach the threshold."""
        buckets = self._buckets_of(position)
        filled = self._filled[buckets]
        if not len(buckets) or not filled.any():  # of most texts the first, which is soon told
            return np.empty(0, np.int64)
        added = self._added[ranges(self._begins[buckets], filled)]
        others, shared = np.unique(added, return_counts=True)
        own, sizes = self._sizes[position], self._sizes[others]
        larger = np.maximum(own, sizes)
        # n shingles in common are t of the union of a + b - n from n = t (a + b) / (1 + t) on.
        # Those of a pair are among the rarest of both, or behind those of the text whose rarest
        # end first, which leaves over one less than it needs.
        behind = needed(larger, self._threshold) - 1
        least = (own + sizes) * (self._threshold / (1 + self._threshold)) - SLACK
        may = (np.minimum(own, sizes) >= larger * self._threshold - SLACK) & (
            shared + behind >= least
        )
        chosen: NDArray[np.int64] = others[may]
        return chosen

    def alike(
        self, position: int, others: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Those of the other positions that reach the threshold, and their Jaccard indices."""
        if not len(others):
            return others, np.empty(0, np.float64)
        own, sizes = self._shingles.of(position), self._sizes[others]
        step = 1 + _AT_ONCE * len(others) // int(sizes.sum())
        parts = [others[start : start + step] for start in range(0, len(others), step)]
        common = np.concatenate([self._common(own, part) for part in parts])
        similarities = common / (len(own) + sizes - common)
        reached = similarities >= self._threshold
        return others[reached], similarities[reached]

    def _common(self, own: NDArray[np.uint64], others: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of a text's shingles each of the others has."""
        sizes = self._sizes[others]
        values = self._shingles.values[ranges(self._shingles.starts[others], sizes)]
        nearest = np.minimum(np.searchsorted(own, values), len(own) - 1)
        counts: NDArray[np.int64] = np.add.reduceat(
            own[nearest] == values, np.cumsum(sizes) - sizes, dtype=np.int64
        )
        return counts

    def _buckets_of(self, position: int) -> NDArray[np.int64]:
        return self._buckets[self._starts[position] : self._starts[position + 1]]


def _shingles(texts: Iterable[str]) -> Shingles:
    shingler, stream, batches = Shingler(), iter(texts), []
    while batch := list(islice(stream, BATCH)):
        batches.append(shingler(map(normalise, batch)))
    return Shingles.join(batches)


def _shared_buckets(
    values: NDArray[np.uint64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A bucket for each value that two texts have; texts and buckets, by bucket.

    Args:
        values: of all texts, end to end. starts: [texts + 1] where each text's begin.
    """
    order = np.argsort(values)
    ordered = values[order]
    differs = ordered[1:] != ordered[:-1]
    # Neighbours of an equal value are of two texts, as a text has each value once.
    shared = np.concatenate([[False], ~differs]) | np.concatenate([~differs, [False]])
    shared = shared[: len(values)]
    first = np.concatenate([[True], differs])[: len(values)]
    owners = np.searchsorted(starts, order[shared], side="right") - 1
    return owners, np.cumsum(first[shared]) - 1
