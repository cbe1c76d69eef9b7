"""Held-out sets that share nothing with training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf.data.dedup import NearDuplicateIndex, normalise, similar_of_each


class Split(NamedTuple):
    """Indices of texts for training and held out, both sorted.

    too_like: of the training ones, those in groups of near-duplicates too large to hold out.
    """

    train: list[int]
    held_out: list[int]
    too_like: list[int]


def held_out_split(
    texts: Sequence[str],
    fraction: float,
    threshold: float,
    seed: int,
    keep: Collection[int] = (),
    kinds: Sequence[str] | None = None,
) -> Split:
    """Near-duplicates stay on one side, also those of different kinds.

    Args:
        texts: what must not leak, such as prompts.
        fraction: of the texts of each kind to hold out, rounded, at least one text.
        threshold: Jaccard index from which two texts are near-duplicates.
        keep: indices of texts that stay in training, with what is like them.
        kinds: of data that each text is of, such as sft; one kind where it is left out.

    Raises:
        ValueError: no group of near-duplicates is small enough to be held out.
    """
    kinds = kinds or [""] * len(texts)
    groups = _groups(texts, threshold)
    Random(seed).shuffle(groups)
    wanted = {kind: max(1, round(fraction * count)) for kind, count in Counter(kinds).items()}
    kept = set(keep)
    held_out = _chosen([group for group in groups if kept.isdisjoint(group)], kinds, wanted)
    if not held_out or len(held_out) == len(texts):
        raise ValueError(
            f"cannot hold out {sum(wanted.values())} of {len(texts)} texts in {len(groups)} groups "
            f"of near-duplicates, {len(kept)} of them also in other training files; name a "
            "held-out file of your own, or add data"
        )
    train = [i for i in range(len(texts)) if i not in held_out]
    large = {i for group in groups if not _fits(group, kinds, wanted) for i in group}
    return Split(train, sorted(held_out), [i for i in train if i in large])


def _chosen(
    groups: Sequence[Sequence[int]], kinds: Sequence[str], wanted: Mapping[str, int]
) -> set[int]:
    """As many texts of each kind as are wanted, or fewer, in whole groups, the first that fit.

    The scarcest kind comes first, before the others have left no room for what is like it. A kind
    without a group so small gives its smallest, within what is wanted of all.
    """
    left, chosen = dict(wanted), set[int]()
    for kind in sorted(wanted, key=wanted.__getitem__):
        having = [group for group in groups if any(kinds[i] == kind for i in group)]
        for group in having:
            if chosen.isdisjoint(group) and _fits(group, kinds, left):
                chosen.update(group)
                left = _less(left, group, kinds)
        smallest = min(having, key=len, default=[])
        if left[kind] == wanted[kind] and len(smallest) <= sum(left.values()):
            chosen.update(smallest)
            left = _less(left, smallest, kinds)
    return chosen


def _fits(group: Sequence[int], kinds: Sequence[str], room: Mapping[str, int]) -> bool:
    return all(count <= room[kind] for kind, count in Counter(kinds[i] for i in group).items())


def _less(room: Mapping[str, int], group: Sequence[int], kinds: Sequence[str]) -> dict[str, int]:
    taken = Counter(kinds[i] for i in group)
    return {kind: count - taken[kind] for kind, count in room.items()}


def check_leakage(
    train: Mapping[str, Sequence[str]],
    held_out: Mapping[str, Sequence[str]],
    threshold: float,
    may_meet: Collection[tuple[str, str]] = (),
) -> None:
    """Refuses held-out texts that are near-duplicates of training texts.

    Args:
        train, held_out: texts by the kind of data that they are of, such as sft.
        may_meet: (held-out kind, training kind) that may have texts in common.

    Raises:
        ValueError: there is one; says how many of which kind, and shows the closest pair.
    """
    found = list(_leaks(train, held_out, threshold, may_meet))
    if not found:
        return
    counts = Counter(f"{leak.tested} in {learnt}" for leak in found for learnt in leak.learnt)
    kinds = ", ".join(f"{count} of held-out {names}" for names, count in sorted(counts.items()))
    closest = max(found, key=lambda leak: leak.similarity)
    raise ValueError(
        f"{len(found)} of {sum(map(len, held_out.values()))} held-out texts are near-duplicates of "
        f"training texts ({kinds}), such as {_short(closest.text)} of {_short(closest.twin)} "
        f"(Jaccard {closest.similarity:.2f}); remove them, or set data.allow_leakage to true"
    )


class _Leak(NamedTuple):
    """A held-out text of the kind `tested`; the training kinds that have near-duplicates of it, the
    closest of these, and the Jaccard index."""

    text: str
    tested: str
    learnt: list[str]
    twin: str
    similarity: float


def _leaks(
    train: Mapping[str, Sequence[str]],
    held_out: Mapping[str, Sequence[str]],
    threshold: float,
    may_meet: Collection[tuple[str, str]],
) -> Iterator[_Leak]:
    held = [(kind, text) for kind, texts in held_out.items() for text in texts]
    learnt = [text for texts in train.values() for text in texts]
    kinds = np.array([kind for kind, texts in train.items() for _ in texts], str)
    similar = similar_of_each(learnt, [text for _, text in held], threshold)
    for (tested, text), (twins, similarities) in zip(held, similar, strict=True):
        refused = [kind for kind in train if (tested, kind) not in may_meet]
        chosen = np.isin(kinds[twins], refused)
        if chosen.any():
            twins, similarities = twins[chosen], similarities[chosen]
            closest = int(np.argmax(similarities))
            yield _Leak(
                text,
                tested,
                np.unique(kinds[twins]).tolist(),
                learnt[twins[closest]],
                float(similarities[closest]),
            )


def _groups(texts: Sequence[str], threshold: float) -> list[list[int]]:
    """Near-duplicates, and their near-duplicates in turn, as one group; by their first texts."""
    index = NearDuplicateIndex(texts, threshold)
    exact: dict[str, int] = {}
    group_of = np.arange(len(texts))
    members = {i: [i] for i in range(len(texts))}
    for i, text in enumerate(texts):
        original = exact.setdefault(normalise(text), i)
        if original == i:
            joined = _groups_of_similar(index, i, group_of)
            index.add(i)
        else:
            joined = [int(group_of[original])]
        largest, *others = sorted({i, *joined}, key=lambda group: -len(members[group]))
        for other in others:
            moved = members.pop(other)
            members[largest] += moved
            group_of[moved] = largest
    return sorted(members.values(), key=min)


def _groups_of_similar(
    index: NearDuplicateIndex, text: int, group_of: NDArray[np.int64]
) -> list[int]:
    """The groups of the texts in the index that are like this one.

    One like it is enough: of many from one template the first of the group is nearly always.
    """
    candidates = index.candidates(text)
    groups, firsts = np.unique(group_of[candidates], return_index=True)
    alike, _ = index.alike(text, candidates[firsts])
    open_groups = np.setdiff1d(groups, group_of[alike])
    rest = candidates[np.isin(group_of[candidates], open_groups)]
    further, _ = index.alike(text, rest)
    joined: list[int] = group_of[np.concatenate([alike, further])].tolist()
    return joined


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
