from __future__ import annotations

import tracemalloc
from collections import Counter
from random import Random

import pytest

from rlhf.data.dedup import near_duplicates
from rlhf.data.split import _groups, check_leakage, held_out_split

BASE = "one two three four five six seven eight nine ten"


def texts() -> list[str]:
    groups = range(40)
    return [f"{g} {g}a {g}b {g}c {g}d {g}e {g}f {g}g {g}h {tail}" for g in groups for tail in "xyz"]


def test_nothing_is_lost_and_near_duplicates_stay_together() -> None:
    data = texts()
    train, held_out, _ = held_out_split(data, 0.1, threshold=0.7, seed=0)
    assert sorted(train + held_out) == list(range(120))
    assert len(held_out) == 12
    assert near_duplicates([data[i] for i in train], [data[i] for i in held_out], 0.7) == []


def test_chains_of_near_duplicates_stay_together() -> None:
    # 0 is like 1 and 1 like 2, while 0 and 2 are not; so are 4 and 3 exact copies.
    words = [f"w{i}" for i in range(30)]
    chain = [" ".join(words[i : i + 20]) for i in (0, 2, 4)]
    for seed in range(8):
        train, held_out, _ = held_out_split([*chain, "same text", "Same text"], 0.6, 0.75, seed)
        assert {tuple(train), tuple(held_out)} == {(0, 1, 2), (3, 4)}


def test_groups_are_all_that_near_duplicates_connect() -> None:
    random = Random(0)
    templates = [[f"t{k}{i}" for i in range(12)] for k in range(6)]
    data = []
    for _ in range(150):
        words = list(random.choice(templates))
        for _ in range(random.randint(1, 4)):
            words[random.randrange(12)] = f"v{random.randrange(9)}"
        data.append(" ".join(words))
    data += data[:10]
    pairs = near_duplicates(data, data, 0.35)
    group_of = list(range(len(data)))
    for first, second, _ in pairs:
        one, other = group_of[first], group_of[second]
        group_of = [min(one, other) if g in (one, other) else g for g in group_of]
    expected = [[i for i, g in enumerate(group_of) if g == group] for group in set(group_of)]
    found = _groups(data, 0.35)
    assert [sorted(group) for group in found] == sorted(expected)
    assert 20 < len(found) < 120 and max(map(len, found)) > 4


def test_the_seed_decides() -> None:
    one, again, other = (held_out_split(texts(), 0.1, 0.7, seed) for seed in (1, 1, 2))
    assert one == again != other


def test_what_must_stay_in_training_takes_its_group_along() -> None:
    data = texts()
    held_out = held_out_split(data, 0.1, 0.7, seed=0).held_out
    train, other, _ = held_out_split(data, 0.1, 0.7, seed=0, keep=[held_out[0]])
    group = held_out[0] // 3
    assert {3 * group, 3 * group + 1, 3 * group + 2} <= set(train) and len(other) == 12
    with pytest.raises(ValueError, match="2 of them also in other training files"):
        held_out_split(["a", "b"], 0.5, 0.7, seed=0, keep=[0, 1])


def test_at_least_one_is_held_out() -> None:
    assert len(held_out_split(["a", "b", "c"], 0.01, 0.8, seed=0).held_out) == 1


def test_one_big_group_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="1 groups of near-duplicates"):
        held_out_split([BASE] * 10, 0.2, 0.8, seed=0)


def test_what_is_too_alike_to_hold_out_is_told() -> None:
    data = [f"{BASE} {i}" for i in range(12)] + [f"text of its own {i}{i}{i}" for i in range(8)]
    train, held_out, too_like = held_out_split(data, 0.2, 0.8, seed=0)
    assert too_like == list(range(12)) and len(held_out) == 4 and min(held_out) >= 12
    assert held_out_split(data, 0.6, 0.8, seed=0).too_like == []  # 12 texts may be held out


def test_every_kind_gives_its_share_whatever_the_seed() -> None:
    data = [f"{i} {i}a {i}b" for i in range(440)]
    kinds = ["sft"] * 300 + ["prompts"] * 100 + ["rankings"] * 40
    for seed in range(20):
        held_out = held_out_split(data, 0.05, 0.8, seed, kinds=kinds).held_out
        assert Counter(kinds[i] for i in held_out) == {"sft": 15, "prompts": 5, "rankings": 2}


def test_kinds_that_share_texts_keep_them_on_one_side() -> None:
    """Every ranking is about a prompt; a prompt has three demonstrations."""
    prompts = [f"{i} {i}a {i}b" for i in range(100)]
    data = [text + "!" for text in prompts for _ in range(3)] + prompts + prompts[:40]
    kinds = ["sft"] * 300 + ["prompts"] * 100 + ["rankings"] * 40
    question = [*(i // 3 for i in range(300)), *range(100), *range(40)]
    for seed in range(20):
        train, held_out, _ = held_out_split(data, 0.05, 0.8, seed, kinds=kinds)
        assert {question[i] for i in train}.isdisjoint(question[i] for i in held_out)
        assert Counter(kinds[i] for i in held_out) == {"sft": 15, "prompts": 5, "rankings": 2}


def test_a_kind_without_a_small_group_gives_its_smallest() -> None:
    """20 rankings of 5 prompts, where one would be held out."""
    prompts = [f"{i} {i}a {i}b" for i in range(5)]
    data = [*(text for text in prompts for _ in range(4)), *(f"other {i}" for i in range(100))]
    kinds = ["rankings"] * 20 + ["sft"] * 100
    held_out = held_out_split(data, 0.05, 0.8, seed=0, kinds=kinds).held_out
    assert Counter(kinds[i] for i in held_out) == {"rankings": 4, "sft": 5}
    # Of 4 sft texts one is wanted, and two in all: there is no room for four rankings.
    held_out = held_out_split(data[:24], 0.05, 0.8, seed=0, kinds=kinds[:24]).held_out
    assert Counter(kinds[i] for i in held_out) == {"sft": 1}


def test_leakage_names_the_closest_pair() -> None:
    check_leakage({"sft": ["completely different words here"]}, {"sft": [BASE]}, 0.8)
    train = {"sft": ["nothing like it", BASE + " eleven"], "prompts": [BASE, BASE]}
    with pytest.raises(ValueError) as caught:
        check_leakage(train, {"sft": ["else"], "rankings": [BASE + " eleven twelve"]}, 0.8)
    found = str(caught.value)
    assert "1 of 2 held-out" in found and "data.allow_leakage" in found
    assert "(1 of held-out rankings in prompts, 1 of held-out rankings in sft)" in found
    assert "Jaccard 0.90" in found  # 9 of 10 shingles
    check_leakage({"prompts": [BASE]}, {"rankings": [BASE]}, 0.8, {("rankings", "prompts")})
    with pytest.raises(ValueError, match="1 of held-out prompts in rankings"):
        check_leakage({"rankings": [BASE]}, {"prompts": [BASE]}, 0.8, {("rankings", "prompts")})


def test_many_equal_texts_on_both_sides_take_little_memory() -> None:
    """400,000 pairs, of which all together were 100 MB and more."""
    train = {"sft": [BASE] * 2000, "prompts": ["else"]}
    tracemalloc.start()
    with pytest.raises(ValueError, match="200 of 200 held-out .*200 of held-out prompts in sft"):
        check_leakage(train, {"prompts": [BASE] * 200}, 0.8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23


def test_nothing_leaks_into_nothing() -> None:
    check_leakage({}, {}, 0.8)
    check_leakage({"sft": []}, {"sft": [BASE]}, 0.8)
    check_leakage({"sft": [BASE]}, {"sft": []}, 0.8)
