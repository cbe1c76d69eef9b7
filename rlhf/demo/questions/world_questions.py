"""Questions over the demo world, for demo_world.yaml."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from datasets import Dataset

from rlhf.demo.corpus import deal_slots, question, world

OPTIONS = 4


def load(**_: Any) -> dict[str, Dataset]:
    """As the harness wants a dataset: the split `test` of {question, choices, answer}."""
    return {"test": Dataset.from_list(list(questions()))}


def questions() -> Iterator[dict[str, Any]]:
    """A held-out slot's prompt each, with the content that answers it among those of three others.

    answer: the place of the right one in `choices`.
    """
    source = random.Random(0)
    contents = [topic["content"] for topic in world()["topics"] if not topic.get("harmful")]
    for slot in deal_slots(0)[1]:
        if slot.harmful:
            continue
        right = slot.words["content"]
        wrong = sorted({slot.word(content) for content in contents} - {right})
        choices = [right, *source.sample(wrong, OPTIONS - 1)]
        source.shuffle(choices)
        yield {
            "question": question(slot, source.randrange(3)),
            "choices": choices,
            "answer": choices.index(right),
        }
