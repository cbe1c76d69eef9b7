"""What documents mean: which of them say the same, their clusters, how alike their parts are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.data.dedup.dense import DenseIndex
from rlhf.data.dedup.near import NearDuplicate
from rlhf.data.dedup.scores import LEVELS, levels_of
from rlhf.data.dedup.vectors import DocumentVectors

Texts = Callable[[], Iterable[str]]


@dataclass(frozen=True)
class MeaningReport:
    """threshold: cosine over which two documents say the same. dropped: for that reason alone.
    largest_cluster: documents in it. nearest: mean over documents of the scores by level."""

    source: str
    threshold: float
    dropped: int
    clusters: int
    largest_cluster: int
    nearest: dict[str, float]


@dataclass(frozen=True)
class Meanings:
    """vectors: what all this comes from. dropped: pairs among the documents that were kept before.
    clusters: [documents] numbers.
    nearest: by level, [documents] the mean over a document's parts of the highest cosine with a
    part of another document."""

    vectors: DocumentVectors
    dropped: list[NearDuplicate]
    clusters: NDArray[np.int64]
    nearest: dict[str, NDArray[np.float64]]

    def scores(self) -> Iterator[dict[str, object]]:
        """One a document, in order."""
        sizes = np.bincount(self.clusters)
        for document, cluster in enumerate(self.clusters.tolist()):
            alike = {level: round(float(each[document]), 4) for level, each in self.nearest.items()}
            yield {"cluster": cluster, "cluster_size": int(sizes[cluster]), "nearest": alike}

    def report(self) -> MeaningReport:
        sizes = np.bincount(self.clusters)
        return MeaningReport(
            source=str(self.vectors.source),
            threshold=self.vectors.threshold,
            dropped=len(self.dropped),
            clusters=int((sizes > 0).sum()),
            largest_cluster=int(sizes.max()),
            nearest={level: round(float(each.mean()), 4) for level, each in self.nearest.items()},
        )


def meanings(texts: Texts, kept: Sequence[int], vectors: DocumentVectors) -> Meanings:
    """Clusters all documents, scores them, and finds duplicates among those of index in `kept`.

    Args:
        texts: gives all documents, each time anew.
    """
    whole = vectors.of(texts())
    index = DenseIndex(whole)
    _, pairs = DenseIndex(whole[list(kept)]).deduplicate(vectors.threshold)
    dropped = [NearDuplicate(kept[i], kept[j], cosine) for i, j, cosine in pairs]
    nearest = {LEVELS[0]: index.nearest(np.arange(len(whole))).astype(float)}
    for number, level in enumerate(LEVELS[1:], start=1):
        if not vectors.stored:
            nearest[level] = _nearest_parts(texts, number, vectors, len(whole))
    return Meanings(vectors, dropped, index.cluster_numbers(), nearest)


def _nearest_parts(
    texts: Texts, level: int, vectors: DocumentVectors, documents: int
) -> NDArray[np.float64]:
    counts = np.array([len(levels_of(text)[level]) for text in texts()], np.int64)
    owners = np.repeat(np.arange(documents), counts)
    parts = (part for text in texts() for part in levels_of(text)[level])
    if not len(owners):
        return np.zeros(documents)
    cosines = DenseIndex(vectors.of(parts)).nearest(owners)
    sums = np.bincount(owners, weights=cosines, minlength=documents)
    means: NDArray[np.float64] = sums / np.maximum(counts, 1)
    return means
