"""Exact and near duplicates of Chinese and English text.

Two texts are as similar as the Jaccard index of their shingles. MinHash (Broder 1997) with
locality-sensitive hashing finds candidates; each is verified, so that a reported index is exact and
only recall is approximate.
"""

from __future__ import annotations

from rlhf.data.dedup.near import NearDuplicate, NearDuplicateIndex, deduplicate, near_duplicates
from rlhf.data.dedup.shingles import normalise

__all__ = ["NearDuplicate", "NearDuplicateIndex", "deduplicate", "near_duplicates", "normalise"]
