"""Categories for untagged prompts: the nearest of a taxonomy, with a confidence at each level."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf.data.jsonl import Rejection, to_line, whole_files
from rlhf.data.records import PromptRecord
from rlhf.data.taxonomy import CategoryPath, Taxonomy, Tertiary
from rlhf.data.validate import good_records

Vectors = NDArray[np.float32]
Encoder = Callable[[Sequence[str]], Vectors]

# Chosen on ordinary prompts and the taxonomy's own examples, not on tests/data/taxonomy_eval.jsonl.
LEVEL_WEIGHTS = (0.5, 1.0, 1.0)  # of a category's ancestors and of itself
TEXT_WEIGHTS = (4.0, 1.0, 1.0)  # of a category's names and keywords, and of its two examples
TEMPERATURE = 0.03
_GRAM = 4
_BATCH = 64
_RUN = re.compile(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+")


class Tag(NamedTuple):
    """A tertiary category's path, and the confidence, 0 to 1, in each level of it."""

    path: CategoryPath
    confidence: tuple[float, ...]


class TagCounts(NamedTuple):
    """Prompts tagged, those that had a category already, and those left for a person."""

    tagged: int
    had: int
    left: int


class LexicalEncoder:
    """Texts as unit vectors of TF-IDF weights (Salton and Buckley 1988), in Chinese and English.

    A Chinese character and two neighbours are a feature each, so is a word, and so are four
    neighbouring letters of a word, which take the place of stemming. Features that no document has
    are left out: a text made of them is a zero vector.

    Args:
        documents: they say how rare a feature is.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        counted = [set(_features(document)) for document in documents]
        frequency = Counter(feature for features in counted for feature in features)
        self._columns = {feature: column for column, feature in enumerate(sorted(frequency))}
        self._rarity = [
            math.log((len(counted) + 1) / (frequency[feature] + 0.5)) for feature in self._columns
        ]

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """[texts, features]."""
        rows = np.zeros((len(texts), len(self._columns)), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature, count in Counter(_features(text)).items():
                column = self._columns.get(feature)
                if column is not None:
                    row[column] = (1 + math.log(count)) * self._rarity[column]
        return _unit(rows)


class Tagger:
    """Finds the tertiary category whose texts are nearest to a prompt, by cosine.

    A category stands where its names, keywords and examples lie on average, and is drawn to its
    ancestors, who have more text (shrinkage; McCallum et al. 1998). The softmax of the cosines
    shares a prompt out; the primary category with most of it is taken, then the best of its
    secondary, then of that one's tertiary categories.

    Args:
        encode: texts to unit vectors, [texts, dimensions]; a `LexicalEncoder` of the taxonomy when
            absent.
    """

    def __init__(self, taxonomy: Taxonomy, encode: Encoder | None = None) -> None:
        self._paths = list(taxonomy.levels[-1])
        texts = [_texts(taxonomy, path) for path in self._paths]
        self._encode = encode or LexicalEncoder(" ".join(own) for own in texts)
        weights = np.array(TEXT_WEIGHTS, np.float32)
        leaves = _unit(np.stack([weights @ self._encode(own) for own in texts]))
        self._below: list[Vectors] = []  # of each level [categories, leaves]: 1 where it is above
        self._centres = np.zeros_like(leaves)
        for categories, weight in zip(taxonomy.levels, LEVEL_WEIGHTS, strict=True):
            above = [[leaf[: len(path)] == path for leaf in self._paths] for path in categories]
            below = np.array(above, np.float32)
            names = self._encode([f"{one.zh} {one.en}" for one in categories.values()])
            centres = _unit(below @ leaves + names) if len(below) < len(leaves) else leaves
            self._centres += weight * below.T @ centres
            self._below.append(below)

    def __call__(self, texts: Sequence[str]) -> list[Tag]:
        """The category of each text, however unsure."""
        nearness = self._encode(texts) @ self._centres.T / TEMPERATURE
        shares = np.exp(nearness - nearness.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        confidence = []
        for below in self._below:
            sums = shares @ below.T
            best = sums.argmax(axis=1)
            confidence.append(sums.max(axis=1).tolist())
            shares = shares * below[best]
        paths = (self._paths[leaf] for leaf in best)
        return [Tag(*pair) for pair in zip(paths, zip(*confidence, strict=True), strict=True)]


def tag_file(
    source: Path,
    out: Path,
    tagger: Tagger,
    threshold: float,
    tell: Callable[[Rejection], object],
) -> TagCounts:
    """Writes out/tagged.jsonl and, where the confidence is under the threshold, out/untagged.jsonl.

    The metadata of a prompt get `tag_confidence`, at the three levels; that of an untagged one
    also `tag_suggestion`. Prompts that have a category keep it, and go to tagged.jsonl.

    Args:
        tell: called with every line that is no prompt; the rest is still tagged.

    Raises:
        ValueError: no prompt in the source, or it would be overwritten.
    """
    files = out / "tagged.jsonl", out / "untagged.jsonl"
    if source.resolve() in (file.resolve() for file in files):
        raise ValueError(f"{source}: would be overwritten; give --out another folder")
    tagged = had = left = 0
    records = good_records(source, PromptRecord, tell)
    with whole_files(*files) as (sure, unsure):
        for record, tag in _tags(records, tagger):
            stream = sure
            if tag is None:
                had += 1
            elif tag.confidence[-1] >= threshold:
                tagged += 1
                record = _noted(record, tag).model_copy(update={"category": tag.path})
            else:
                left += 1
                stream = unsure
                record = _noted(record, tag, tag_suggestion="/".join(tag.path))
            stream.write(to_line(record))
    return TagCounts(tagged, had, left)


def _tags(
    records: Iterator[PromptRecord], tagger: Tagger
) -> Iterator[tuple[PromptRecord, Tag | None]]:
    """None for a prompt that has a category."""
    while batch := list(islice(records, _BATCH)):
        bare = [record.text for record in batch if not record.category]
        tags = iter(tagger(bare) if bare else [])
        yield from ((record, None if record.category else next(tags)) for record in batch)


def _noted(record: PromptRecord, tag: Tag, **more: str) -> PromptRecord:
    confidence = " ".join(f"{level:.3f}" for level in tag.confidence)
    metadata = record.metadata | {"tag_confidence": confidence} | more
    return record.model_copy(update={"metadata": metadata})


def _texts(taxonomy: Taxonomy, path: CategoryPath) -> list[str]:
    category = taxonomy.levels[-1][path]
    assert isinstance(category, Tertiary)
    words = f"{category.zh} {category.en} {category.keywords}"
    return [words, category.example_zh, category.example_en]


def _features(text: str) -> Iterator[str]:
    for run in _RUN.findall(text.lower()):
        if "\u3400" <= run[0] <= "\u9fff":
            yield from run
            yield from (run[start : start + 2] for start in range(len(run) - 1))
        else:
            word = f"<{run}>"
            yield word
            yield from (word[start : start + _GRAM] for start in range(len(word) - _GRAM + 1))


def _unit(vectors: Vectors) -> Vectors:
    lengths: Vectors = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, np.where(lengths > 0, lengths, 1), dtype=np.float32)
