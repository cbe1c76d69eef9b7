"""Exact and near duplicates of Chinese and English text.

Two texts are as similar as the Jaccard index of their shingles. Texts that share some of their
rarest shingles are candidates; each is compared. The pairs found, and their indices, are exact.
"""

from __future__ import annotations

from rlhf.data.dedup.near import (
    NearDuplicate,
    NearDuplicateIndex,
    deduplicate,
    near_duplicates,
    similar_of_each,
)
from rlhf.data.dedup.shingles import normalise

__all__ = [
    "NearDuplicate",
    "NearDuplicateIndex",
    "deduplicate",
    "near_duplicates",
    "normalise",
    "similar_of_each",
]
