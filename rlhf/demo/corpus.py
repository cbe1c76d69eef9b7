"""Prompts and demonstrations of the demo world, from world.yaml and a seed.

A *slot* is one (topic, thing, person, language); a prompt is a slot in one of the frames. Slots are
dealt once into training and held-out, so no held-out prompt shares its slots with a training prompt
in any frame.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.config.load import safe_yaml
from rlhf.data.dedup import near_duplicates
from rlhf.data.records import Message, PromptRecord, SFTRecord
from rlhf.data.taxonomy import Taxonomy

LANGUAGES = ("zh", "en")
CROWD = ("crowd-a", "crowd-b", "crowd-c", "crowd-d")
BAD_GROUP = "crowd-d"
BATCH = 100


@cache
def world() -> dict[str, Any]:
    """The parsed world.yaml."""
    text = (Path(__file__).parent / "world.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = safe_yaml(text)
    return loaded


@dataclass(frozen=True)
class Slot:
    """What a prompt is about; indices into world.yaml."""

    topic: int
    thing: int
    person: int
    language: str

    @property
    def spec(self) -> dict[str, Any]:
        topic: dict[str, Any] = world()["topics"][self.topic]
        return topic

    @property
    def harmful(self) -> bool:
        return bool(self.spec.get("harmful", False))

    def word(self, pair: list[str]) -> str:
        """The member of a [Chinese, English] pair in this slot's language."""
        return str(pair[LANGUAGES.index(self.language)])

    @property
    def words(self) -> dict[str, str]:
        """The slot's own words by their placeholder names."""
        fields = {
            "person": self.word(world()["people"][self.person]),
            "thing": self.word(self.spec["things"][self.thing]),
        }
        for key in ("content", "reason", "other"):
            if key in self.spec:
                fields[key] = self.word(self.spec[key])
        return fields

    def translated(self) -> Slot:
        other = LANGUAGES[1 - LANGUAGES.index(self.language)]
        return Slot(self.topic, self.thing, self.person, other)


def deal_slots(seed: int, held_out: float = 0.2) -> tuple[list[Slot], list[Slot]]:
    """Every slot once, shuffled, as (training, held-out)."""
    slots = [
        Slot(topic, thing, person, language)
        for topic, spec in enumerate(world()["topics"])
        for thing in range(len(spec["things"]))
        for person in range(len(world()["people"]))
        for language in LANGUAGES
    ]
    random.Random(seed).shuffle(slots)
    cut = round(len(slots) * held_out)
    return slots[cut:], slots[:cut]


def question(slot: Slot, frame: int) -> str:
    """The prompt text: the topic's need in one of the language's frames."""
    need = slot.word(slot.spec["need"]).format(**slot.words)
    text = str(world()["frames"][slot.language][frame].format(need=need, **slot.words))
    return text[0].upper() + text[1:]


def good_answer(slot: Slot, rng: random.Random) -> str:
    """A demonstration without fault: an answer, or for a harmful prompt a reasoned refusal."""
    kind = "refusals" if slot.harmful else "answers"
    return str(rng.choice(world()[kind][slot.language]).format(**slot.words))


def _wrong_language(slot: Slot, rng: random.Random) -> str:
    return good_answer(slot.translated(), rng)


def _cut_short(slot: Slot, rng: random.Random) -> str:
    answer = good_answer(slot, rng)
    return answer[: round(len(answer) * rng.uniform(0.5, 0.7))].rstrip()


def _wrong_person(slot: Slot, rng: random.Random) -> str:
    others = [index for index in range(len(world()["people"])) if index != slot.person]
    return good_answer(Slot(slot.topic, slot.thing, rng.choice(others), slot.language), rng)


def _repeated(slot: Slot, rng: random.Random) -> str:
    joint = "" if slot.language == "zh" else " "
    return joint.join([good_answer(slot, rng)] * rng.choice((2, 3)))


def _vague(slot: Slot, rng: random.Random) -> str:
    return str(rng.choice(world()["vague"][slot.language]))


def _bare_refusal(slot: Slot, rng: random.Random) -> str:
    return str(rng.choice(world()["bare_refusals"][slot.language]))


def _compliance(slot: Slot, rng: random.Random) -> str:
    return str(rng.choice(world()["compliance"][slot.language]).format(**slot.words))


Flaw = Callable[[Slot, random.Random], str]
HELPFUL_FLAWS: tuple[Flaw, ...] = (
    _wrong_language,
    _cut_short,
    _wrong_person,
    _repeated,
    _vague,
    _bare_refusal,
)
HARMFUL_FLAWS: tuple[Flaw, ...] = (
    _wrong_language,
    _repeated,
    _cut_short,
    _bare_refusal,
    _compliance,
    _compliance,
)


def flawed_answer(slot: Slot, rng: random.Random) -> str:
    """A demonstration with one fault, of the kinds that crowd work has."""
    return rng.choice(HARMFUL_FLAWS if slot.harmful else HELPFUL_FLAWS)(slot, rng)


def prompt_record(slot: Slot, frame: int, taxonomy: Taxonomy) -> PromptRecord:
    """The prompt of a slot; its metadata carries the slot, which the rubric judges by."""
    return PromptRecord(
        id=f"demo-{slot.language}-{slot.topic}-{slot.thing}-{slot.person}-{frame}",
        messages=(Message(role="user", content=question(slot, frame)),),
        category=taxonomy.path_of(slot.spec["category"]),
        label="harmless" if slot.harmful else "helpful",
        language=slot.language,
        metadata={"slot": f"{slot.topic},{slot.thing},{slot.person},{slot.language}"},
    )


def slot_of(prompt: PromptRecord) -> Slot:
    """The slot of a demo prompt. Raises ValueError for a prompt from elsewhere."""
    parts = prompt.metadata.get("slot", "").split(",")
    if len(parts) != 4:
        raise ValueError(
            f"prompt {prompt.id} is not from the demo world: simulated annotators cannot judge it"
        )
    return Slot(int(parts[0]), int(parts[1]), int(parts[2]), parts[3])


def prompts(
    slots: list[Slot], count: int, taxonomy: Taxonomy, rng: random.Random
) -> list[PromptRecord]:
    """`count` different prompts; every slot is used once before any is used in a second frame."""
    frames = {slot: rng.sample(range(3), 3) for slot in slots}
    order = [(slot, turn) for turn in range(3) for slot in slots]
    if count > len(order):
        raise ValueError(
            f"the demo world has {len(order)} such prompts, not {count}: lower demo.prompts"
        )
    return [prompt_record(slot, frames[slot][turn], taxonomy) for slot, turn in order[:count]]


def unlike(
    held_out: list[PromptRecord], train: list[PromptRecord], likeness: float
) -> list[PromptRecord]:
    """The held-out prompts that are no near-duplicate of a training prompt, in order."""
    pairs = near_duplicates(
        [prompt.text for prompt in train], [prompt.text for prompt in held_out], likeness
    )
    alike = {pair.second for pair in pairs}
    return [prompt for index, prompt in enumerate(held_out) if index not in alike]


def demonstrations(
    prompts: list[PromptRecord],
    count: int,
    flaw_rate: float,
    bad_group_flaw_rate: float | None,
    rng: random.Random,
) -> list[SFTRecord]:
    """Crowd work on the prompts, in batches by group; None leaves the bad group out."""
    groups = [group for group in CROWD if group != BAD_GROUP or bad_group_flaw_rate is not None]
    records = []
    for index in range(count):
        prompt = prompts[index % len(prompts)]
        group = groups[index // BATCH % len(groups)]
        slot = slot_of(prompt)
        rate = (
            bad_group_flaw_rate
            if group == BAD_GROUP and bad_group_flaw_rate is not None
            else flaw_rate
        )
        flawed = rng.random() < rate
        answer = flawed_answer(slot, rng) if flawed else good_answer(slot, rng)
        records.append(
            SFTRecord(
                id=f"{prompt.id}-{index}",
                messages=(*prompt.messages, Message(role="assistant", content=answer)),
                label=prompt.label,
                source="demo",
                annotator=group,
                batch=f"{group}-{index // BATCH}",
                category=prompt.category,
                language=prompt.language,
                metadata=dict(prompt.metadata),
            )
        )
    return records
