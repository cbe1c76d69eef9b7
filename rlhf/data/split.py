"""Held-out sets that share nothing with training."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from rlhf.data.dedup import NearDuplicateIndex, near_duplicates, normalise


def held_out_split(
    texts: Sequence[str], fraction: float, threshold: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices for training and held out, both sorted. Near-duplicates stay on one side.

    Args:
        texts: what must not leak, such as prompts.
        fraction: of the texts to hold out, rounded, at least one text.
        threshold: Jaccard index from which two texts are near-duplicates.

    Raises:
        ValueError: no group of near-duplicates is small enough to be held out.
    """
    groups = _groups(texts, threshold)
    Random(seed).shuffle(groups)
    wanted = max(1, round(fraction * len(texts)))
    held_out: list[int] = []
    for group in groups:
        if len(held_out) + len(group) <= wanted:
            held_out += group
    if not held_out or len(held_out) == len(texts):
        raise ValueError(
            f"cannot hold out {wanted} of {len(texts)} texts in {len(groups)} groups of "
            f"near-duplicates; name a held-out file of your own, or add data"
        )
    chosen = set(held_out)
    return [i for i in range(len(texts)) if i not in chosen], sorted(held_out)


def check_leakage(train: Sequence[str], held_out: Sequence[str], threshold: float) -> None:
    """Refuses held-out texts that are near-duplicates of training texts.

    Raises:
        ValueError: there is one; says how many and shows the closest pair.
    """
    pairs = near_duplicates(train, held_out, threshold)
    if pairs:
        closest = max(pairs, key=lambda pair: pair.jaccard)
        leaked = len({pair.second for pair in pairs})
        raise ValueError(
            f"{leaked} of {len(held_out)} held-out texts are near-duplicates of training texts, "
            f"such as {_short(held_out[closest.second])} of {_short(train[closest.first])} "
            f"(Jaccard {closest.jaccard:.2f}); remove them, or set data.allow_leakage to true"
        )


def _groups(texts: Sequence[str], threshold: float) -> list[list[int]]:
    """Near-duplicates, and their near-duplicates in turn, as one group."""
    index = NearDuplicateIndex(texts, threshold)
    exact: dict[str, int] = {}
    group_of = list(range(len(texts)))
    members = {i: [i] for i in range(len(texts))}
    for i, text in enumerate(texts):
        original = exact.setdefault(normalise(text), i)
        similar = [other for other, _ in index.similar(i)] if original == i else [original]
        if original == i:
            index.add(i)
        for other in similar:
            if group_of[i] != group_of[other]:
                moved = members.pop(group_of[i])
                members[group_of[other]] += moved
                for member in moved:
                    group_of[member] = group_of[other]
    return list(members.values())


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
