"""Held-out documents that ask what a document to train on asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf.data.dedup.dense import DenseIndex
from rlhf.data.dedup.documents import Line, read_documents
from rlhf.data.dedup.near import Similar, similar_of_each
from rlhf.data.dedup.vectors import DocumentVectors

CLOSEST = 5
"""Documents that are named of those which a held-out one is like: many may ask the same."""


class Leak(NamedTuple):
    """A held-out document by index, and how it was found.

    measure: jaccard or cosine. documents: how many it is like; closest: indices and similarities
    of a few of them, the closest first.
    """

    held_out: int
    measure: str
    documents: int
    closest: tuple[tuple[int, float], ...]


def find_leaks(
    files: Sequence[Path],
    held_out: Sequence[Line],
    documents: int,
    threshold: float,
    vectors: DocumentVectors | None,
) -> list[Leak]:
    """By what was asked, in the order of the held-out documents.

    documents: how many the files hold.
    """
    if vectors:
        vectors.check(documents + len(held_out))
    if not held_out:
        return []

    def asked() -> Iterator[str]:
        return (line.document.question() for line in read_documents(files))

    questions = [line.document.question() for line in held_out]
    leaks = _leaks("jaccard", similar_of_each(asked(), questions, threshold))
    if vectors:
        index = DenseIndex(vectors.of(asked()))
        queries = vectors.of(questions, first=documents)
        leaks += _leaks("cosine", index.near_each(queries, vectors.threshold))
    return sorted(leaks, key=lambda leak: leak.held_out)


def leak_rows(
    files: Sequence[Path], held_out: Sequence[Line], leaks: Sequence[Leak]
) -> Iterator[dict[str, object]]:
    """Pairs of a held-out document and one of the files, for leaked.jsonl."""
    wanted = {first for leak in leaks for first, _ in leak.closest}
    places = {i: line.place for i, line in enumerate(read_documents(files)) if i in wanted}
    for leak in leaks:
        for first, similarity in leak.closest:
            yield held_out[leak.held_out].place | {
                "similarity": round(similarity, 4),
                "measure": leak.measure,
                "document": places[first],
                "documents": leak.documents,
            }


def _leaks(measure: str, similar: Iterator[Similar]) -> list[Leak]:
    leaks = []
    for second, (firsts, similarities) in enumerate(similar):
        if len(firsts):
            order = np.argsort(-similarities, kind="stable")[:CLOSEST]
            closest = tuple((int(firsts[i]), float(similarities[i])) for i in order)
            leaks.append(Leak(second, measure, len(firsts), closest))
    return leaks
