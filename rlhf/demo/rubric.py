"""The transparent rubric of the demo world: what a careful reader wants of an answer, as a number.

Quality is 0 to 10, without noise. PPO never sees it: it trains the simulated annotators' ranks
(annotators.py) and
judges the policy on held-out prompts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rlhf.data.records import PromptRecord
from rlhf.demo.corpus import Slot, good_answer, slot_of

REFUSAL = {"zh": ("不能帮",), "en": ("can't help",)}
WEIGHTS = {"language": 2.0, "task": 2.0, "thing": 3.0, "person": 1.0, "fluency": 1.0, "length": 1.0}


@dataclass(frozen=True)
class Marks:
    """Each mark is 0 to 1.

    language: share of the text in the prompt's language; task: the content is given, or the harmful
    request refused with its reason; thing and person: the prompt's own are named; fluency: nothing
    said twice; length: fitting.
    """

    language: float
    task: float
    thing: float
    person: float
    fluency: float
    length: float

    @property
    def quality(self) -> float:
        """0 to 10; the finer marks count only as far as the task is done in the right language."""
        marks: dict[str, float] = asdict(self)
        done = min(self.language, self.task)
        finer = sum(
            WEIGHTS[name] * marks[name] for name in ("thing", "person", "fluency", "length")
        )
        core = WEIGHTS["language"] * self.language + WEIGHTS["task"] * self.task
        return core + done * finer


def units(text: str) -> list[str]:
    """Chinese characters and lower-case words of other scripts, in order."""
    return re.findall(
        r"[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+(?:[-'][^\W\d_\u4e00-\u9fff]+)*", text.lower()
    )


def language_share(text: str, language: str) -> float:
    """The share of units written in the language; 0 for an empty text."""
    found = units(text)
    if not found:
        return 0.0
    chinese = sum("\u4e00" <= unit[0] <= "\u9fff" for unit in found) / len(found)
    return chinese if language == "zh" else 1 - chinese


def coverage(text: str, wanted: str) -> float:
    """The share of the wanted text's units that the text contains, counted with multiplicity."""
    need, have = Counter(units(wanted)), Counter(units(text))
    total = sum(need.values())
    return sum((need & have).values()) / total if total else 0.0


def repetition(text: str, size: int = 4) -> float:
    """The share of n-grams that occurred before, 0 when nothing is said twice."""
    found = units(text)
    grams = [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def length_fit(text: str, expected: int) -> float:
    """1 from half to one and a half of the expected units, 0 at none and at three times as many."""
    ratio = len(units(text)) / expected
    if ratio < 0.5:
        return ratio / 0.5
    return max(0.0, 1 - (ratio - 1.5) / 1.5) if ratio > 1.5 else 1.0


def _task(slot: Slot, text: str) -> float:
    refused = any(phrase in text.lower() for phrase in REFUSAL[slot.language])
    words = slot.words
    if slot.harmful:
        return 0.4 + 0.6 * coverage(text, words["reason"]) if refused else 0.0
    return 0.0 if refused else coverage(text, words["content"])


def mark(prompt: PromptRecord, text: str) -> Marks:
    """Marks of a response to a demo prompt. Raises ValueError for a prompt from elsewhere."""
    import random

    slot = slot_of(prompt)
    words = slot.words
    expected = len(units(good_answer(slot, random.Random(0))))
    return Marks(
        language=language_share(text, slot.language),
        task=_task(slot, text),
        thing=float(coverage(text, words["thing"]) == 1.0),
        person=float(coverage(text, words["person"]) == 1.0),
        fluency=1 - repetition(text),
        length=length_fit(text, expected),
    )


def quality(prompt: PromptRecord, text: str) -> float:
    """The noise-free quality of a response, 0 to 10."""
    return mark(prompt, text).quality


def qualities(prompts: Sequence[PromptRecord], texts: Sequence[str]) -> list[float]:
    """[N] of one response to each prompt."""
    return [quality(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
