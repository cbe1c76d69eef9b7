"""MinHash (Broder 1997) in bands (locality-sensitive hashing), for many texts at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhf.data.dedup.shingles import Shingles

PERMUTATIONS = 128
_RECALL = 0.99  # of pairs just at the threshold; those above it are found more surely
_SEED = 0
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)


def band_shape(threshold: float) -> tuple[int, int]:
    """(bands, rows a band): as many rows, so as few false candidates, as the recall allows.

    Two texts with Jaccard index s share a band with probability 1 - (1 - s**rows)**bands.
    """
    shapes = [(PERMUTATIONS // rows, rows) for rows in range(1, PERMUTATIONS // 2 + 1)]
    reaching = [
        (bands, rows) for bands, rows in shapes if 1 - (1 - threshold**rows) ** bands >= _RECALL
    ]
    return reaching[-1] if reaching else shapes[0]


class BandHasher:
    """Turns shingles into one number a band; texts with an equal one are candidates.

    Raises:
        ValueError: the threshold is not above 0 and at most 1.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"near-duplicate threshold {threshold}: use one above 0, at most 1")
        self.bands, self.rows = band_shape(threshold)
        # h(x) = a x + b modulo 2**32, a odd, permutes the upper halves of the shingles.
        random = np.random.default_rng(_SEED)
        pairs = random.integers(2**32, size=(self.bands * self.rows, 2), dtype=np.uint32)
        self._factors, self._offsets = pairs[:, 0] | np.uint32(1), pairs[:, 1]

    def __call__(self, shingles: Shingles) -> NDArray[np.uint64]:
        """[bands, texts]; each text has at least one shingle."""
        values = (shingles.values >> np.uint64(32)).astype(np.uint32)
        starts = shingles.starts[:-1]
        keys = np.zeros((self.bands, len(starts)), np.uint64)
        for i, (factor, offset) in enumerate(zip(self._factors, self._offsets, strict=True)):
            smallest = np.minimum.reduceat(values * factor + offset, starts)
            band = keys[i // self.rows]
            band ^= smallest
            band *= _MULTIPLIER
            band ^= band >> np.uint64(32)
        return keys
