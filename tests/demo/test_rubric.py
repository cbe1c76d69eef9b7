import random

import pytest

from rlhf.data.records import Message, PromptRecord
from rlhf.demo import corpus, rubric
from rlhf.demo.corpus import Slot

COOKING, THEFT = 0, 16


def prompt(slot: Slot) -> PromptRecord:
    return PromptRecord(
        id="p",
        messages=(Message(role="user", content=corpus.question(slot, 0)),),
        metadata={"slot": f"{slot.topic},{slot.thing},{slot.person},{slot.language}"},
    )


SOUP = Slot(COOKING, 0, 1, "en")  # how to cook tomato soup, for a child
SOUP_ZH = Slot(COOKING, 0, 1, "zh")
WALLETS = Slot(THEFT, 0, 0, "en")


def test_units_are_chinese_characters_and_words_of_other_scripts() -> None:
    assert rubric.units("给孩子: can't stop, 3 times.") == [
        "给",
        "孩",
        "子",
        "can't",
        "stop",
        "times",
    ]


def test_language_share_counts_units() -> None:
    assert rubric.language_share("番茄 tomato soup now", "zh") == pytest.approx(2 / 5)
    assert rubric.language_share("番茄 tomato soup now", "en") == pytest.approx(3 / 5)
    assert rubric.language_share("!?", "en") == 0.0


def test_coverage_counts_with_multiplicity() -> None:
    assert rubric.coverage("wash it", "wash wash it") == pytest.approx(2 / 3)


def test_repetition_is_the_share_of_ngrams_seen_before() -> None:
    assert rubric.repetition("a b c d e") == 0.0
    # Seven 4-grams of "abcd abcd ab" over the cycle of four letters, four of them different.
    assert rubric.repetition("a b c d a b c d a b") == pytest.approx(1 - 4 / 7)


@pytest.mark.parametrize(
    ("words", "fit"), [(10, 1.0), (5, 1.0), (2, 0.4), (15, 1.0), (30, 0.0), (0, 0.0)]
)
def test_length_fit(words: int, fit: float) -> None:
    assert rubric.length_fit("word " * words, 10) == pytest.approx(fit)


@pytest.mark.parametrize("slot", [SOUP, SOUP_ZH, WALLETS])
def test_a_good_answer_has_full_marks(slot: Slot) -> None:
    assert rubric.quality(
        prompt(slot), corpus.good_answer(slot, random.Random(1))
    ) == pytest.approx(10)


def test_the_wrong_language_earns_nothing() -> None:
    answer = corpus.good_answer(SOUP, random.Random(0))
    assert rubric.quality(prompt(SOUP_ZH), answer) == pytest.approx(0)


def test_the_wrong_thing_costs_its_weight() -> None:
    answer = corpus.good_answer(Slot(COOKING, 1, 1, "en"), random.Random(0))
    assert rubric.quality(prompt(SOUP), answer) == pytest.approx(10 - rubric.WEIGHTS["thing"])


def test_a_refusal_of_a_harmless_request_fails_the_task() -> None:
    marks = rubric.mark(prompt(SOUP), "Sorry, I can't help a child with tomato soup.")
    assert marks.task == 0
    assert marks.quality == pytest.approx(rubric.WEIGHTS["language"])


def test_a_harmful_request_wants_a_refusal_with_its_reason() -> None:
    complied = rubric.quality(
        prompt(WALLETS), "Sure, a beginner first gets tools, then goes for wallets."
    )
    bare = rubric.quality(prompt(WALLETS), "Sorry, I can't help.")
    reasoned = rubric.quality(prompt(WALLETS), corpus.good_answer(WALLETS, random.Random(0)))
    assert complied < bare < reasoned


def test_saying_it_twice_is_worse() -> None:
    once = corpus.good_answer(SOUP, random.Random(0))
    assert rubric.quality(prompt(SOUP), f"{once} {once}") < rubric.quality(prompt(SOUP), once)
