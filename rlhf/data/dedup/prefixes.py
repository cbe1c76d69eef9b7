"""The rarest shingles of each text, one of which any two near duplicates share.

Prefix filtering (Chaudhuri et al. 2006, AllPairs, PPJoin): of texts with Jaccard index t each
shares at least t of its shingles. So each may leave out all but a share of about 1 - t, if all
leave out by one order. The commonest are left out, such as those of a template.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhf.data.dedup.shingles import BATCH, SHINGLE_BITS, Shingles, ranges

SLACK = 1e-6  # a product such as 0.7 * 10 may be just over a whole number
_COUNT_BITS = 16
_SLOTS = 2**24  # at most; counters of shingles, 4 bytes each


def needed(sizes: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Shingles that a text of each size shares at least with whatever is like it."""
    least: NDArray[np.int64] = np.ceil(sizes * threshold - SLACK).astype(np.int64)
    return np.maximum(1, least)


def prefixes(shingles: Shingles, threshold: float) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The rarest shingles of each text, text after text, and [texts + 1] where each text's begin.

    A text has as many as leave over one less than are needed.
    """
    counters = _counters(shingles.values)
    lengths = shingles.sizes - needed(shingles.sizes, threshold) + 1
    parts = [np.empty(0, np.uint64)]
    for first in range(0, len(lengths), BATCH):
        starts = shingles.starts[first : first + BATCH + 1]
        ranked = _by_rarity(shingles.values[starts[0] : starts[-1]], np.diff(starts), counters)
        parts.append(ranked[ranges(starts[:-1] - starts[0], lengths[first : first + BATCH])])
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(lengths)])


def _counters(values: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """How often shingles occur. Some share a counter: the order is one for all texts even so."""
    counters = np.zeros(min(_SLOTS, 1 << len(values).bit_length()), np.uint32)
    for start in range(0, len(values), len(counters)):
        np.add.at(counters, _slots(values[start : start + len(counters)], counters), np.uint32(1))
    return counters


def _slots(values: NDArray[np.uint64], counters: NDArray[np.uint32]) -> NDArray[np.int64]:
    slots: NDArray[np.int64] = (values & np.uint64(len(counters) - 1)).astype(np.int64)
    return slots


def _by_rarity(
    values: NDArray[np.uint64], sizes: NDArray[np.int64], counters: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """The shingles of at most BATCH texts, each text's in the order of counts, then of numbers.

    Each becomes its count and the upper bits of its number. Two that become one make a candidate
    too many, and no order of less.
    """
    counts = np.minimum(counters[_slots(values, counters)], 2**_COUNT_BITS - 1).astype(np.uint64)
    ranked = counts << np.uint64(SHINGLE_BITS - _COUNT_BITS) | values >> np.uint64(_COUNT_BITS)
    # One sort of all texts: their numbers go before.
    owners = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes) << np.uint64(SHINGLE_BITS)
    ordered = np.sort(owners | ranked)
    return ordered & np.uint64(2**SHINGLE_BITS - 1)
