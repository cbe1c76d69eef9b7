"""Near duplicates within a set of texts and between two sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf.data.dedup.minhash import BandHasher
from rlhf.data.dedup.shingles import Shingler, Shingles, normalise

_BATCH = 4096  # texts; their shingles stay in the processor's cache


class NearDuplicate(NamedTuple):
    """Two texts by index; the Jaccard index of their shingles, or the cosine of their vectors."""

    first: int
    second: int
    similarity: float


def near_duplicates(
    train: Iterable[str], held_out: Iterable[str], threshold: float
) -> list[NearDuplicate]:
    """Pairs (train index, held-out index) whose Jaccard index reaches the threshold, sorted."""
    trained, train_keys = _fingerprints(train, threshold)
    held, held_keys = _fingerprints(held_out, threshold)
    pairs = []
    for first, second in _between(train_keys, held_keys):
        similarity = _jaccard(trained.of(first), held.of(second))
        if similarity >= threshold:
            pairs.append(NearDuplicate(first, second, similarity))
    return pairs


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
        similar = index.similar(position)
        if similar:
            first, similarity = max(similar, key=itemgetter(1))
            dropped.append(NearDuplicate(first, position, similarity))
        else:
            index.add(position)
            kept.append(position)
    return kept, dropped


class NearDuplicateIndex:
    """Texts by position, each of which can be added and asked for those added that are similar.

    All are hashed at once, as a stream; what stays in memory is 8 bytes a shingle and a band.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        self._threshold = threshold
        self._shingles, keys = _fingerprints(texts, threshold)
        self._buckets, self._starts = _shared_buckets(keys)
        self._added: defaultdict[int, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, position: int) -> None:
        """Adds a text, once."""
        for bucket in self._buckets_of(position):
            self._added[bucket].append(position)

    def similar(self, position: int) -> list[tuple[int, float]]:
        """(position, Jaccard index) of the added texts that reach the threshold, by position."""
        filled = (self._added.get(bucket, ()) for bucket in self._buckets_of(position))
        candidates = sorted(set().union(*filled))
        if not candidates:
            return []
        own = self._shingles.of(position)
        found = [(other, _jaccard(self._shingles.of(other), own)) for other in candidates]
        return [(other, similarity) for other, similarity in found if similarity >= self._threshold]

    def _buckets_of(self, position: int) -> list[int]:
        buckets: list[int] = self._buckets[slice(*self._starts[position : position + 2])].tolist()
        return buckets


def _jaccard(first: set[int], second: set[int]) -> float:
    """Size of the intersection over size of the union."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def _fingerprints(texts: Iterable[str], threshold: float) -> tuple[Shingles, NDArray[np.uint64]]:
    """Shingles of the texts, and their numbers by band [bands, texts]."""
    shingler, hasher = Shingler(), BandHasher(threshold)
    stream = iter(texts)
    batches = []
    keys = [np.empty((hasher.bands, 0), np.uint64)]
    while batch := list(islice(stream, _BATCH)):
        batches.append(shingler(map(normalise, batch)))
        keys.append(hasher(batches[-1]))
    return Shingles.join(batches), np.concatenate(keys, axis=1)


def _shared_buckets(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The buckets of each text that hold another text as well.

    Args:
        keys: [bands, texts].

    Returns:
        Numbers of buckets, text after text, and [texts + 1] where each text's begin.
    """
    bands, count = keys.shape
    texts, buckets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for band in range(bands):
        order = np.argsort(keys[band])
        ordered = keys[band][order]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[:count]
        bucket = np.cumsum(first) - 1
        shared = np.bincount(bucket)[bucket] > 1
        texts.append(order[shared])
        buckets.append(bucket[shared] + band * count)
    owners = np.concatenate(texts)
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=count))])
    return np.concatenate(buckets)[np.argsort(owners, kind="stable")], starts


def _between(train: NDArray[np.uint64], held_out: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Pairs (train index, held-out index) that share a bucket, each once and sorted.

    Args:
        train: [bands, N]. held_out: [bands, M].
    """
    count = held_out.shape[1]
    codes = np.empty(0, np.int64)
    for trained, held in zip(train, held_out, strict=True):
        order = np.argsort(trained)
        low = np.searchsorted(trained, held, side="left", sorter=order)
        matches = np.searchsorted(trained, held, side="right", sorter=order) - low
        # The n matches of a held-out text are order[low], ..., order[low + n - 1].
        ends = np.cumsum(matches)
        steps = np.arange(matches.sum()) - np.repeat(ends - matches, matches)
        firsts = order[np.repeat(low, matches) + steps]
        codes = np.union1d(codes, firsts * count + np.repeat(np.arange(count), matches))
    for code in codes.tolist():
        yield divmod(code, count)
