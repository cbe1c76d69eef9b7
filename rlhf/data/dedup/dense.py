"""Near duplicates by meaning: vectors in k-means clusters, compared by their cosine.

As Baichuan 2's data system clusters dense embeddings (arXiv 2309.10305, 2.1) and SemDeDup compares
within clusters (arXiv 2303.09540), but over the nearest few, so that a border parts fewer pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.data.dedup.near import NearDuplicate, Similar

_QUERIES = 1024  # compared at once
_CLUSTERS_SEARCHED = 16
_NEIGHBOURS = 16  # looked through for one of another document
_VECTORS_A_CLUSTER = 39  # faiss's least for a stable centroid


class DenseIndex:
    """Unit vectors in clusters. Up to 16 clusters, so up to about 600 vectors, all are compared.

    Args:
        vectors: [N, D], each of length 1; at least one.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        import faiss  # an extra

        count, dimensions = vectors.shape
        self.clusters = max(1, min(round(4 * count**0.5), count // _VECTORS_A_CLUSTER))
        self._vectors = vectors
        self._centroids = faiss.IndexFlatIP(dimensions)
        self._index: Any = faiss.IndexIVFFlat(
            self._centroids, dimensions, self.clusters, faiss.METRIC_INNER_PRODUCT
        )
        self._index.cp.spherical = True
        self._index.cp.min_points_per_centroid = 1  # else it warns about a single small cluster
        self._index.nprobe = _CLUSTERS_SEARCHED
        self._index.train(vectors)
        self._index.add(vectors)

    def cluster_numbers(self) -> NDArray[np.int64]:
        """[N] the cluster of each vector."""
        _, numbers = self._centroids.search(self._vectors, 1)
        own: NDArray[np.int64] = numbers[:, 0]
        return own

    def near_each(self, queries: NDArray[np.float32], threshold: float) -> Iterator[Similar]:
        """For each query the own vectors, ascending, whose cosine is over the threshold."""
        for start in range(0, len(queries), _QUERIES):
            for others, cosines in self._search(queries[start : start + _QUERIES], threshold):
                order = np.argsort(others)
                yield others[order], cosines[order]

    def deduplicate(self, threshold: float) -> tuple[list[int], list[NearDuplicate]]:
        """Keeps the first of every set of duplicates; as `near.deduplicate`."""
        kept = np.zeros(len(self._vectors), bool)
        dropped: list[NearDuplicate] = []
        for start in range(0, len(self._vectors), _QUERIES):
            found = self._search(self._vectors[start : start + _QUERIES], threshold)
            for position, (others, cosines) in enumerate(found, start):
                # Kept ones all come before: none after this has been decided.
                before = kept[others]
                if before.any():
                    best = int(np.argmax(np.where(before, cosines, -1)))
                    first, cosine = int(others[best]), float(cosines[best])
                    dropped.append(NearDuplicate(first, position, cosine))
                else:
                    kept[position] = True
        return np.flatnonzero(kept).tolist(), dropped

    def nearest(self, owners: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N] the highest cosine with a vector of another owner; 0 where none is among the nearest.

        Args:
            owners: [N] which document each vector is of.
        """
        highest = np.zeros(len(self._vectors), np.float32)
        count = min(_NEIGHBOURS, len(self._vectors))
        for start in range(0, len(self._vectors), _QUERIES):
            batch = slice(start, start + _QUERIES)
            cosines, others = self._index.search(self._vectors[batch], count)
            # faiss fills up with -1 when it finds fewer.
            foreign = (others >= 0) & (owners[others] != owners[batch, None])
            highest[batch] = np.where(foreign, cosines, 0).max(axis=1)
        return highest

    def _search(
        self, queries: NDArray[np.float32], threshold: float
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Of each query, the own vectors over the threshold, and their cosines."""
        limits, cosines, others = self._index.range_search(queries, threshold)
        return [(others[low:high], cosines[low:high]) for low, high in pairwise(limits.tolist())]
