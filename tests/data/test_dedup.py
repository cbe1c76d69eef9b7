from __future__ import annotations

from random import Random

import pytest

from rlhf.data.dedup import NearDuplicate, deduplicate, jaccard, near_duplicates, shingles


def test_shingles_mix_ideographs_and_words() -> None:
    assert shingles("用 Python３ 写，快排！") == {
        "用 python3 写",
        "python3 写 快",
        "写 快 排",
    }


def test_short_and_wordless_texts_have_one_shingle() -> None:
    assert shingles("Hello") == {"hello"}
    assert shingles("?! ") == {"?!"}


def test_jaccard_by_hand() -> None:
    # Three shingles each, two in common: 2 / 4.
    assert jaccard(shingles("a b c d e"), shingles("x b c d e")) == pytest.approx(2 / 4)


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


def test_deduplicate_keeps_the_first_and_names_it() -> None:
    near = "one two three four five six seven eight nine ten {}"
    texts = [near.format("x"), "other text", near.format("y"), "Other  text", near.format("Y")]
    kept, dropped = deduplicate(texts, 0.7)
    assert kept == [0, 1]
    assert dropped == [
        NearDuplicate(0, 2, 8 / 10),
        NearDuplicate(1, 3, 1.0),
        NearDuplicate(0, 4, 8 / 10),
    ]
