"""Vectors of documents: from a model, or from a file that has them ready."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf.data.embeddings import Embedder

_BATCH = 4096  # texts handed to the model at once


class DocumentVectors:
    """Unit vectors.

    Args:
        source: a sentence-transformers model's folder, or an .npy file [documents, D] with a row
            for each document of the files, then of the held-out files, in their order.
        threshold: cosine over which two documents are duplicates.

    Raises:
        ValueError: the source is neither, or the extra is not installed.
    """

    def __init__(self, source: Path, threshold: float) -> None:
        if find_spec("faiss") is None:
            raise ValueError(
                f"{source}: embeddings need an extra: pip install 'baichuan-rlhf[embeddings]'"
            )
        self.source, self.threshold = source, threshold
        self._stored = _load(source) if source.suffix == ".npy" else None
        self._embedder = Embedder(source) if self._stored is None else None

    @property
    def stored(self) -> bool:
        """Whether there are vectors of whole documents alone."""
        return self._stored is not None

    def check(self, documents: int) -> None:
        """Raises ValueError unless a file has just so many rows."""
        if self._stored is not None and len(self._stored) != documents:
            raise ValueError(
                f"{self.source}: {len(self._stored)} vectors for {documents} documents; give one "
                "to each document of the files, then of the held-out files, rejected lines left out"
            )

    def of(self, texts: Iterable[str], first: int = 0) -> NDArray[np.float32]:
        """[texts, D]. From a file, the rows from `first` on are theirs."""
        if self._stored is not None:
            count = sum(1 for _ in texts)
            return _unit(self._stored[first : first + count], self.source)
        assert self._embedder is not None
        stream, parts = iter(texts), []
        while batch := list(islice(stream, _BATCH)):
            parts.append(self._embedder(batch))
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def _load(path: Path) -> NDArray[np.floating]:
    try:
        vectors: NDArray[np.floating] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(
            f"{path}: {vectors.dtype} {vectors.shape} where floats [N, D] are expected"
        )
    return vectors


def _unit(vectors: NDArray[np.floating], source: Path) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueError(f"{source}: a vector is zero or no number; make it again")
    return np.ascontiguousarray(vectors / lengths, np.float32)
