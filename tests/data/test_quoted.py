from __future__ import annotations

from time import process_time

import pytest

from rlhf.data import quoted as module
from rlhf.data.quoted import quoted
from rlhf.data.records import TextRecord

EIGHT = "How do I bake bread without an oven?"
SEVEN = "How do I bake bread without fire?"


def text(name: str, content: str) -> TextRecord:
    return TextRecord(id=name, text=content)


def found(question: str, content: str) -> bool:
    return quoted([text("t", content)], [question], 0.8) == {0: "t"}


@pytest.mark.parametrize(
    ("question", "content"),
    [
        (EIGHT, "Once upon a time. " * 50 + "how do i BAKE bread, without\nan oven? Well."),
        (EIGHT, f"{EIGHT}"),
        (SEVEN, f"{SEVEN}"),  # the whole text
        ("什么时候最适合种西红柿？", "有人问：什么时候最适合种西红柿。" + "答案如下。" * 99),
        ("How?", "how"),
    ],
)
def test_a_question_that_stands_in_a_text(question: str, content: str) -> None:
    assert found(question, content)


@pytest.mark.parametrize(
    ("question", "content"),
    [
        (SEVEN, "A story. " * 50 + SEVEN),  # seven words within a text may be chance
        (EIGHT, "A story. " * 50 + "How do I bake bread without a good oven?"),  # reworded
        (EIGHT, "A story. " * 50 + "How do I bake bread without an ovenproof dish?"),
        (EIGHT, "Somehow do I bake bread without an oven? " + "A story. " * 50),
        (EIGHT, "Without an oven, how do I bake bread? " + "A story. " * 50),
    ],
)
def test_a_question_that_does_not(question: str, content: str) -> None:
    assert not found(question, content)


def test_nearly_the_same_text_is_found_as_a_whole() -> None:
    """Ten words have 8 shingles; one word more, at the end, makes 9 of which 8 are shared: 0.89."""
    question = "one two three four five six seven eight nine ten"
    assert quoted([text("t", f"{question} eleven")], [question], 0.88) == {0: "t"}
    reworded = "one two three four five six seven eight nine else"  # 7 of 9: 0.78
    assert quoted([text("t", reworded)], [question], 0.77) == {0: "t"}
    assert quoted([text("t", reworded)], [question], 0.78) == {}


def test_many_texts_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first text of each question, in whatever batch; two questions may begin alike."""
    monkeypatch.setattr(module, "_CHARACTERS", 100)
    longer = f"{EIGHT.rstrip('?')} and without a pan?"
    texts = [text(f"t{n}", f"This is story number {n}. " * 3) for n in range(9)]
    texts.insert(4, text("a", f"He said: {EIGHT}"))
    texts += [text("b", f"She said: {longer}"), text("c", SEVEN)]
    assert quoted(iter(texts), [SEVEN, longer, EIGHT, "Why?"], 0.8) == {0: "c", 1: "b", 2: "a"}


def test_many_questions_of_one_template_cost_no_more_for_each_text() -> None:
    """2,000 questions and 100 texts, all of which begin alike: a text is read once, not once a
    question."""
    template = "Write a short story of about 200 words about"
    questions = [f"{template} {n} and {n + 1}" for n in range(2000)]
    words = " ".join(f"w{n}" for n in range(1000))
    texts = [text(f"t{n}", f"{words} {template} {n} and {n + 1} {words}") for n in range(100)]
    started = process_time()
    assert quoted(texts, questions, 0.8) == {n: f"t{n}" for n in range(100)}
    assert process_time() - started < 3
