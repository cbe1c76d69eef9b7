"""Dense vectors of texts, from a sentence-transformers model on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf.runtime.quiet import quiet

_BATCH = 64


class Embedder:
    """A sentence-transformers model: texts in, unit vectors out, so that products are cosines.

    Raises:
        ValueError: sentence-transformers is not installed, or the folder holds no such model.
    """

    def __init__(self, directory: Path) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ValueError(
                f"{directory}: embeddings need an extra: pip install 'baichuan-rlhf[embeddings]'"
            ) from None
        # A name that is no folder would be looked up on the hub, whose models nobody chose here.
        if not directory.is_dir():
            raise ValueError(f"{directory}: no such folder; give a sentence-transformers model's")
        try:
            with quiet():
                self._model = SentenceTransformer(str(directory), local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{directory}: no sentence-transformers model: {reason}") from None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[texts, dimensions], each of length 1."""
        vectors = self._model.encode(
            list(texts),
            batch_size=_BATCH,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return np.asarray(vectors, np.float32)
