from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random

import numpy as np
import pytest

from rlhf.data.dedup import (
    NearDuplicate,
    NearDuplicateIndex,
    deduplicate,
    near,
    near_duplicates,
    normalise,
)
from rlhf.data.dedup.prefixes import needed, prefixes
from rlhf.data.dedup.shingles import BATCH, Shingler, tokens


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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("is C++ older than c#, or F#?", "is c++ older than c# or f#"),
        ("用C#写，用 C++ 写", "用 c# 写 用 c++ 写"),
        ("12+30, 12 + 30, x+y, c++17", "12 + 30 12 + 30 x + y c ++ 17"),
        ("5 - 3, 5-3, a - b, (-5)", "5 - 3 5 - 3 a - b - 5"),
        ("state-of-the-art, covid-19, x-1, 一-二", "state of the art covid 19 x 1 一 二"),
        ("x>=5 ≠ y，５％ ＆ €3", "x >= 5 ≠ y 5 % & € 3"),
        ("《书》“a”…—·、 [b] {c} it's 3.5 `d`", "书 a b c it s 3 5 d"),
        ("a/b @c ~ d^2 | **e**", "a / b @ c ~ d ^ 2 | ** e **"),
        ("翻译😀🚀 ☀️ 👍🏿", "翻 译 😀🚀 ☀ 👍"),
        ("+", "+"),
    ],
)
def test_symbols_count_and_punctuation_does_not(text: str, found: str) -> None:
    assert tokens(normalise(text)) == found.split()


@pytest.mark.parametrize(
    ("one", "other", "index"),
    [
        # Of runs of three tokens those differ that the symbol is in: here the last of four.
        ("What is a pointer in C?", "What is a pointer in C++?", 3 / 5),
        ("用C写快速排序", "用C#写快速排序", 3 / 7),
        ("计算 12 + 30", "计算 12 - 30", 1 / 5),
        ("x>5 的解集", "x<5 的解集", 2 / 6),
        ("👍", "👎", 0),
        ("A state-of-the-art model: which?", "a state of the art model, which", 1),
    ],
)
def test_what_differs_in_a_symbol_is_another_text(one: str, other: str, index: float) -> None:
    assert jaccard(one, other) == index
    found = near_duplicates([one], [other], 0.8)
    assert found == ([NearDuplicate(0, 0, 1.0)] if index == 1 else [])


def test_each_text_has_its_own_shingles() -> None:
    texts = ["a b c d", "x", "", "a b", "a b c a b c"]
    found = Shingler()(texts)
    assert found.sizes.tolist() == [2, 1, 1, 1, 3]
    own = [set(found.of(i).tolist()) for i in range(5)]
    assert own[0] & own[4] == own[0] - set(Shingler()(["b c d"]).of(0).tolist())
    for i, text in enumerate(texts):
        assert (np.diff(found.of(i).astype(np.int64)) > 0).all()  # ascending, each once
        # A text has the same shingles whatever stands around it.
        assert found.of(i).tolist() == Shingler()([text]).of(0).tolist()


def test_what_a_text_needs_in_common_is_a_whole_number_of_shingles() -> None:
    # 0.7 * 10 is 7.000000000000001 in floats, and 7 of 10 are enough.
    assert 0.7 * 10 == 7 and 0.55 * 100 > 55
    assert needed(np.array([1, 10, 11, 100]), 0.7).tolist() == [1, 7, 8, 70]
    assert needed(np.array([1, 100]), 0.55).tolist() == [1, 55]
    assert needed(np.array([1, 9]), 0.01).tolist() == [1, 1]


def test_prefixes_are_the_rarest_shingles() -> None:
    # Shingles of the first: xab, abc, bcd, cde, def; abc, bcd and cde are in all three texts.
    found = Shingler()(["x a b c d e f", "y a b c d e", "a b c d e"])
    values, starts = prefixes(found, 0.8)
    # Of 5, 4 and 3 shingles 4, 4 (3.2) and 3 (2.4) are needed; all but those, and one.
    assert np.diff(starts).tolist() == [2, 1, 1]
    own = [set(values[starts[i] : starts[i + 1]].tolist()) for i in range(3)]
    assert not own[0] & own[1] and not own[0] & own[2] and not own[1] & own[2]
    values, starts = prefixes(found, 0.5)  # 3, 2 and 2 are needed: 3, 3 and 2 are kept
    own = [set(values[starts[i] : starts[i + 1]].tolist()) for i in range(3)]
    assert [len(shingles) for shingles in own] == [3, 3, 2]
    assert own[2] < own[1] and len(own[0] & own[1]) == 1


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


def templated(count: int, seed: int) -> list[str]:
    """One of three instructions of 12 words, some of them varied, and up to 6 words behind it."""
    random = Random(seed)
    templates = [[f"t{k}{i}" for i in range(12)] for k in "abc"]
    texts = []
    for _ in range(count):
        words = list(random.choice(templates))
        for _ in range(random.randint(0, 2)):
            words[random.randrange(12)] = f"v{random.randrange(20)}"
        texts.append(" ".join(words + random.choices("uvwxyz", k=random.randint(0, 6))))
    return texts


def compared(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """The Jaccard index of every pair that reaches the threshold."""
    pairs = combinations(range(len(texts)), 2)
    indices = {(i, j): jaccard(texts[i], texts[j]) for i, j in pairs}
    return {pair: index for pair, index in indices.items() if index >= threshold}


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("make", [variants, templated])
def test_every_pair_is_found_and_no_other(
    make: Callable[[int, int], list[str]], threshold: float
) -> None:
    texts = [*make(180, 1), "", "one", "One!", "two words"]
    expected = compared(texts, threshold)
    assert len(expected) >= 10
    index = NearDuplicateIndex(texts, threshold)
    found = {}
    for position in range(len(texts)):
        others, similarities = index.similar(position)
        assert others.tolist() == sorted(others.tolist())
        pairs = zip(others.tolist(), similarities.tolist(), strict=True)
        found.update({(other, position): similarity for other, similarity in pairs})
        index.add(position)
    assert found == expected
    between = near_duplicates(iter(texts[:100]), texts[100:], threshold)
    assert between == [
        NearDuplicate(i, j - 100, similarity)
        for (i, j), similarity in sorted(expected.items())
        if i < 100 <= j
    ]
    kept: list[int] = []
    dropped = []
    for position in range(len(texts)):
        similar = [i for i in kept if (i, position) in expected]
        if similar:
            first = max(similar, key=lambda i: expected[i, position])
            dropped.append(NearDuplicate(first, position, expected[first, position]))
        else:
            kept.append(position)
    assert deduplicate(texts, threshold) == (kept, dropped)


def test_an_instruction_that_all_texts_have_makes_no_candidates() -> None:
    random = Random(0)
    instruction = " ".join(f"t{i}" for i in range(20))
    words = [f"w{i}" for i in range(2000)]
    texts = [" ".join([instruction, *random.choices(words, k=8)]) for _ in range(1000)]
    index = NearDuplicateIndex(texts, 0.8)
    for position in range(len(texts)):
        index.add(position)
    # Every text has itself, and few have more: all pairs share 18 of 34 shingles, 0.53.
    assert sum(len(index.candidates(position)) for position in range(1000)) < 1100


def test_more_texts_than_a_batch_are_compared_across_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(near, "_AT_ONCE", 50)  # some of a text's candidates at once
    texts = [f"only in text {i}" for i in range(BATCH)]
    same = [f"{i} words that are all the same" for i in range(5)]
    kept, dropped = deduplicate([*same, *texts, *same], 0.5)
    assert kept == [0, *range(5, 5 + BATCH)]
    assert [pair.first for pair in dropped] == [0] * 9
    # Five shingles a text; four are shared of six by different ones.
    assert [pair.similarity for pair in dropped] == [4 / 6] * 4 + [1.0] + [4 / 6] * 4


def test_planted_pairs_are_found_and_no_others() -> None:
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
    assert len(found) == 200
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
