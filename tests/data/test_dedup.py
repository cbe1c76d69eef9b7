from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from rlhf.data.dedup import (
    NearDuplicate,
    NearDuplicateIndex,
    deduplicate,
    near_duplicates,
    normalise,
)
from rlhf.data.dedup.minhash import PERMUTATIONS, band_shape
from rlhf.data.dedup.shingles import Shingler, tokens


def shingles(text: str) -> set[str]:
    """The definition, in plain Python."""
    words = tokens(normalise(text))
    return {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def jaccard(first: str, second: str) -> float:
    a, b = shingles(first), shingles(second)
    return len(a & b) / len(a | b)


def test_tokens_are_ideographs_and_words() -> None:
    assert tokens(normalise("用 Python３ 写，快排！")) == ["用", "python3", "写", "快", "排"]
    assert tokens("?!") == ["?!"]


def test_each_text_has_its_own_shingles() -> None:
    texts = ["a b c d", "x", "", "a b", "a b c a b c"]
    found = Shingler()(texts)
    assert [len(found.of(i)) for i in range(5)] == [2, 1, 1, 1, 3]
    assert found.of(0) & found.of(4) == found.of(0) - Shingler()(["b c d"]).of(0)
    # A text has the same shingles whatever stands around it.
    assert [found.of(i) for i in range(5)] == [Shingler()([text]).of(0) for text in texts]


def test_bands_find_pairs_at_the_threshold() -> None:
    # At 0.8: seven rows, 18 bands: 1 - (1 - 0.8**7)**18 = 0.9855; six rows, 21 bands: 0.998.
    assert band_shape(0.8) == (21, 6)
    assert band_shape(1.0) == (2, PERMUTATIONS // 2)


def test_threshold_outside_its_range() -> None:
    for threshold in (0.0, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            deduplicate(["a"], threshold)


def test_width_case_space_and_punctuation_make_no_other_text() -> None:
    assert near_duplicates(["Ｈow are  you, Bob?"], ["how are you bob"], 1.0) == [
        NearDuplicate(0, 0, 1.0)
    ]


def test_pairs_in_both_languages_and_only_over_the_threshold() -> None:
    train = [
        "one two three four five six seven eight nine ten eleven",
        "今天北京的天气怎么样呢请告诉我",
    ]
    held_out = [
        "今天北京的天气怎么样呢请告诉他",
        "one two three four five six seven eight nine ten twelve",
    ]
    # English: 9 shingles, 8 shared of 10. Chinese: 15 characters, 13 shingles, 12 shared of 14.
    assert near_duplicates(train, held_out, 0.8) == [
        NearDuplicate(0, 1, 8 / 10),
        NearDuplicate(1, 0, 12 / 14),
    ]
    assert near_duplicates(train, held_out, 0.85) == [NearDuplicate(1, 0, 12 / 14)]
    assert near_duplicates(train, ["something else entirely, with no relation"], 0.5) == []


def test_nothing_is_similar_to_nothing() -> None:
    assert near_duplicates([], ["a"], 0.8) == near_duplicates(["a"], [], 0.8) == []
    assert deduplicate([], 0.8) == ([], [])


def variants(count: int, seed: int) -> list[str]:
    """Texts of 5 to 30 words, many of them another one with a few words replaced."""
    random = Random(seed)
    vocabulary = [f"w{i}" for i in range(300)] + list("今天北京的气怎么样")
    texts = [random.choices(vocabulary, k=random.randint(5, 30)) for _ in range(count // 3)]
    while len(texts) < count:
        words = list(random.choice(texts))
        for _ in range(random.randint(0, 3)):
            words[random.randrange(len(words))] = random.choice(vocabulary)
        texts.append(words)
    random.shuffle(texts)
    return [" ".join(words) for words in texts]


def test_index_equals_comparing_all_pairs() -> None:
    texts = variants(300, seed=1)
    index = NearDuplicateIndex(texts, 0.7)
    found = {}
    for position in range(len(texts)):
        found.update({(other, position): s for other, s in index.similar(position)})
        index.add(position)
    expected = {
        (i, j): jaccard(texts[i], texts[j])
        for i, j in combinations(range(len(texts)), 2)
        if jaccard(texts[i], texts[j]) >= 0.7
    }
    assert len(expected) > 100
    assert found.items() <= expected.items()  # never a false pair or another index
    assert len(found) >= 0.98 * len(expected)


def test_two_sets_equal_comparing_all_pairs() -> None:
    texts = variants(300, seed=2)
    train, held_out = texts[:200], texts[200:] + texts[:5]
    expected = [
        NearDuplicate(i, j, jaccard(first, second))
        for i, first in enumerate(train)
        for j, second in enumerate(held_out)
        if jaccard(first, second) >= 0.8
    ]
    assert len(expected) > 30
    found = near_duplicates(train, held_out, 0.8)
    assert found == sorted(found) and set(found) <= set(expected)
    assert len(found) >= 0.98 * len(expected)


def test_recall_on_planted_pairs_and_no_false_alarm() -> None:
    random = Random(0)
    vocabulary = [f"word{i}" for i in range(5000)]
    train = [random.choices(vocabulary, k=60) for _ in range(400)]
    # Replacing a run of the last n words leaves 58 - n of 58 shingles: n = 6 gives 52 / 64 = 0.81,
    # n = 15 gives 43 / 73 = 0.59.
    near = [words[:-6] + random.choices(vocabulary, k=6) for words in train[:200]]
    far = [words[:-15] + random.choices(vocabulary, k=15) for words in train[200:]]
    texts = [[" ".join(words) for words in group] for group in (train, near, far)]
    found = near_duplicates(texts[0], texts[1] + texts[2], 0.8)
    assert {(pair.first, pair.second) for pair in found} <= {(i, i) for i in range(200)}
    assert len(found) >= 195
    kept, dropped = deduplicate(sum(texts, []), 0.8)
    assert dropped == [NearDuplicate(i, 400 + j, similarity) for i, j, similarity in found]
    assert sorted(kept + [pair.second for pair in dropped]) == list(range(800))


def test_deduplicate_keeps_the_first_and_names_the_closest() -> None:
    near = "one two three four five six seven eight nine ten {}"
    texts = [near.format("x"), "other text", near.format("y"), "Other  text", near.format("Y")]
    kept, dropped = deduplicate(iter(texts), 0.7)
    assert kept == [0, 1]
    assert dropped == [
        NearDuplicate(0, 2, 8 / 10),
        NearDuplicate(1, 3, 1.0),
        NearDuplicate(0, 4, 8 / 10),
    ]
