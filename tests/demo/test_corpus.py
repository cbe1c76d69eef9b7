import random

from rlhf.config.paths import resource
from rlhf.data.dedup import near_duplicates
from rlhf.data.taxonomy import Taxonomy
from rlhf.demo import annotators, corpus

TAXONOMY = Taxonomy.load(resource("data_schemas/taxonomy.yaml"))


def test_every_slot_is_dealt_once() -> None:
    train, held_out = corpus.deal_slots(seed=0)
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 24 * 6 * 6 * 2
    assert len(held_out) == round(24 * 6 * 6 * 2 * 0.2)


def test_held_out_prompts_have_no_near_duplicate_in_training() -> None:
    rng = random.Random(0)
    train, held_out = (
        corpus.prompts(slots, 300, TAXONOMY, rng) for slots in corpus.deal_slots(seed=0)
    )
    kept = corpus.unlike(held_out, train, 0.75)
    assert 200 < len(kept) < 300
    assert near_duplicates([p.text for p in train], [p.text for p in kept], 0.75) == []


def test_prompts_are_different_and_lie_in_the_taxonomy() -> None:
    train, _ = corpus.deal_slots(seed=3)
    prompts = corpus.prompts(train, 3000, TAXONOMY, random.Random(0))
    assert len({prompt.id for prompt in prompts}) == 3000
    assert {prompt.label for prompt in prompts} == {"helpful", "harmless"}
    for prompt in prompts[:200]:
        harmful = corpus.slot_of(prompt).harmful
        assert len(prompt.category) == 3
        assert (prompt.category[0] == "safety") == harmful == (prompt.label == "harmless")


def test_the_bad_group_is_bad_and_the_others_are_not() -> None:
    train, _ = corpus.deal_slots(seed=0)
    prompts = corpus.prompts(train, 800, TAXONOMY, random.Random(0))
    records = corpus.demonstrations(prompts, 1600, 0.3, 0.9, random.Random(1))
    accepted = {
        group: [annotators.authoritative(record) for record in records if record.annotator == group]
        for group in corpus.CROWD
    }
    rates = {group: sum(verdicts) / len(verdicts) for group, verdicts in accepted.items()}
    assert rates[corpus.BAD_GROUP] < 0.5
    assert all(rate > 0.6 for group, rate in rates.items() if group != corpus.BAD_GROUP)
    assert all(len(verdicts) == 400 for verdicts in accepted.values())


def test_the_same_seed_makes_the_same_world() -> None:
    def make() -> list[str]:
        train, _ = corpus.deal_slots(seed=5)
        prompts = corpus.prompts(train, 100, TAXONOMY, random.Random(2))
        return [
            r.model_dump_json()
            for r in corpus.demonstrations(prompts, 200, 0.3, 0.8, random.Random(2))
        ]

    assert make() == make()
