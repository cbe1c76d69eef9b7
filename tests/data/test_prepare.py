from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.config.schema import CurationSection, DataSection
from rlhf.data.curation import Verdict, audit_samples, file_auditor
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.prepare import KINDS, prepare
from rlhf.data.records import Message, PromptRecord, RankingRecord, SFTRecord, TextRecord

CURATION = CurationSection(sample=5, threshold=0.5)
QUESTIONS = [
    "How do I bake bread without an oven?",
    "Why is the sky blue in the morning and red at night?",
    "我怎样才能学会游泳？",
    "Which tree grows fastest in a cold country?",
    "什么时候最适合种西红柿？",
    "Explain compound interest to a child of ten.",
    "What did the Romans eat for breakfast?",
    "请写一首关于秋天的短诗。",
    "Is it safe to look at an eclipse through smoked glass?",
    "Name three rivers that flow north.",
]


def demonstration(number: int, batch: str = "one") -> SFTRecord:
    question = Message(role="user", content=QUESTIONS[number])
    return SFTRecord(
        id=f"s{number}",
        messages=(question, Message(role="assistant", content=f"Answer {number}.")),
        source="crowd",
        annotator="ann",
        batch=batch,
    )


def prompt(number: int, text: str | None = None) -> PromptRecord:
    return PromptRecord(
        id=f"p{number}", messages=(Message(role="user", content=text or QUESTIONS[number]),)
    )


def many(count: int) -> list[SFTRecord]:
    """Demonstrations that have nothing in common."""
    answer = Message(role="assistant", content="yes")
    asked = [Message(role="user", content=f"{n} {n}a {n}b") for n in range(count)]
    return [
        SFTRecord(id=f"m{n}", messages=(question, answer), source="crowd")
        for n, question in enumerate(asked)
    ]


def ranking(number: int) -> RankingRecord:
    origin = {"family": "baichuan", "model": "m", "size": "7b", "stage": "sft"}
    responses = [{"id": str(k), "text": f"answer {k}", "provenance": origin} for k in range(2)]
    row = {"id": f"r{number}", "prompt": prompt(number), "responses": responses, "ranks": [1, 2]}
    return RankingRecord.model_validate(row)


class World:
    def __init__(self, folder: Path):
        self.folder, self.out = folder, folder / "data"

    def file(self, name: str, records) -> str:
        write_jsonl(self.folder / name, records)
        return str(self.folder / name)

    def prepare(
        self, section: DataSection, curation=None, auditor=None, pretraining: str | None = None
    ) -> None:
        prepare(section, curation, auditor, self.out, 0, pretraining)

    def ids(self, name: str) -> list[str]:
        model = KINDS[name.removesuffix("_eval")]
        return [record.id for record in read_jsonl(self.out / f"{name}.jsonl", model)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_question_is_held_out_of_every_kind(world):
    """Each question is a demonstration, a prompt and a ranking."""
    section = DataSection(
        sft=world.file("sft.jsonl", map(demonstration, range(10))),
        prompts=world.file("prompts.jsonl", map(prompt, range(10))),
        rankings=world.file("rankings.jsonl", map(ranking, range(10))),
        held_out=0.3,
    )
    world.prepare(section)
    numbers = [[n[1:] for n in world.ids(f"{kind}_eval")] for kind in KINDS]
    assert len(numbers[0]) == 3 and numbers[0] == numbers[1] == numbers[2]
    assert sorted(world.ids("sft") + world.ids("sft_eval")) == [f"s{n}" for n in range(10)]


def test_questions_of_a_file_that_is_not_split_stay_in_training(world):
    section = DataSection(
        prompts=world.file("prompts.jsonl", map(prompt, range(1, 8))),
        prompts_eval=world.file("prompts_eval.jsonl", [prompt(9)]),
        sft=world.file("sft.jsonl", map(demonstration, range(9))),
        held_out=0.3,
    )
    world.prepare(section)
    assert world.ids("sft_eval") == ["s0", "s8"]  # of the 3 wanted, all that may be


def test_a_template_too_common_to_be_held_out_is_told(world, caplog):
    words = "translate the sentence that follows into good French for a child of"
    texts = [f"{words} {n}" for n in range(10)] + [f"{n} {n}a {n}b" for n in range(80)]
    prompts = [prompt(n, text) for n, text in enumerate(texts)]
    section = DataSection(prompts=world.file("prompts.jsonl", prompts))
    world.prepare(section.model_copy(update={"held_out": 0.2}))
    assert not caplog.messages
    world.prepare(section)
    assert caplog.messages == [
        "10 of 90 questions (11%) lie in groups of near-duplicates too large to hold out, and "
        "nothing like them is tested on: name held-out files of your own in data.prompts_eval"
    ]


def test_rankings_are_held_out_beside_many_demonstrations(world):
    section = DataSection(
        sft=world.file("sft.jsonl", many(400)),
        rankings=world.file("rankings.jsonl", map(ranking, range(10))),
    )
    for seed in range(5):
        prepare(section, None, None, world.out, seed)
        assert len(world.ids("rankings_eval")) == 1 and len(world.ids("sft_eval")) == 20


def test_a_given_held_out_file_is_left_as_it_is(world):
    section = DataSection(
        prompts=world.file("prompts.jsonl", map(prompt, range(8))),
        prompts_eval=world.file("eval.jsonl", map(prompt, (8, 9))),
    )
    world.prepare(section)
    assert len(world.ids("prompts")) == 8 and world.ids("prompts_eval") == ["p8", "p9"]


def test_leakage_is_refused_unless_allowed(world):
    given = {
        "prompts": world.file("prompts.jsonl", map(prompt, range(8))),
        "prompts_eval": world.file("eval.jsonl", [prompt(9, QUESTIONS[0].upper())]),
    }
    with pytest.raises(ValueError, match="1 of 1 held-out texts are near-duplicates"):
        world.prepare(DataSection(**given))
    assert not world.out.exists()
    world.prepare(DataSection(**given, allow_leakage=True))
    assert world.ids("prompts_eval") == ["p9"]


MAKERS = {"sft": demonstration, "rankings": ranking, "prompts": prompt}


@pytest.mark.parametrize("tested", MAKERS)
@pytest.mark.parametrize("learnt", MAKERS)
def test_no_stage_has_learnt_what_it_is_tested_on_nor_any_what_ppo_is(world, tested, learnt):
    given = {
        tested: world.file(f"{tested}.jsonl", map(MAKERS[tested], (0, 1))),
        learnt: world.file(f"{learnt}.jsonl", map(MAKERS[learnt], (2, 3))),
        f"{learnt}_eval": world.file(f"{learnt}_eval.jsonl", [MAKERS[learnt](9)]),
        f"{tested}_eval": world.file(f"{tested}_eval.jsonl", [MAKERS[tested](3)]),
    }
    if "rankings" in (tested, learnt) and tested not in ("prompts", learnt):
        world.prepare(DataSection(**given))
    else:
        with pytest.raises(ValueError, match=f"1 of held-out {tested} in {learnt}"):
            world.prepare(DataSection(**given))


def text(name: str, *lines: str) -> TextRecord:
    return TextRecord(id=name, text="\n".join(lines))


def test_no_prompt_that_ppo_is_tested_on_stands_in_the_text_it_mixes_in(world):
    """Two prompts held out: one in the midst of a text, one in no text but like a training's."""
    mixed = world.file(
        "mixed.jsonl",
        [text("t1", "A page of answers."), text("t2", "Another.", f"He asked: {QUESTIONS[1]}")],
    )
    given = {
        "prompts": world.file("prompts.jsonl", map(prompt, range(2, 8))),
        "prompts_eval": world.file("eval.jsonl", map(prompt, (1, 9))),
    }
    with pytest.raises(
        ValueError,
        match=r"^1 of 2 held-out prompts stand in the text of ppo\.pretraining\.data, .*"
        r"mixed\.jsonl, such as 'Why is the sky blue in the morning and r\.\.\.' in 't2'; remove "
        r"them, or set data\.allow_leakage to true$",
    ):
        world.prepare(DataSection(**given), pretraining=mixed)
    assert not world.out.exists()
    world.prepare(DataSection(**given, allow_leakage=True), pretraining=mixed)
    world.prepare(DataSection(**given))


def test_what_no_prompt_is_tested_on_may_stand_in_mixed_text(world):
    """Demonstrations and rankings: neither SFT nor the reward model learns from that text."""
    mixed = world.file("mixed.jsonl", [text("t", QUESTIONS[8])])
    section = DataSection(
        sft=world.file("sft.jsonl", map(demonstration, range(4))),
        sft_eval=world.file("sft_eval.jsonl", [demonstration(8)]),
        rankings=world.file("rankings.jsonl", map(ranking, range(4, 7))),
        rankings_eval=world.file("rankings_eval.jsonl", [ranking(8)]),
    )
    world.prepare(section, pretraining=mixed)
    assert world.ids("sft_eval") == ["s8"]


def test_a_prompt_that_stands_in_mixed_text_is_not_split_off(world):
    mixed = world.file("mixed.jsonl", [text(f"t{n}", "So?", QUESTIONS[n]) for n in (0, 1, 4, 7)])
    prompts = world.file("prompts.jsonl", map(prompt, range(10)))
    world.prepare(DataSection(prompts=prompts, held_out=0.5), pretraining=mixed)
    assert len(world.ids("prompts_eval")) == 5
    assert {"p0", "p1", "p4", "p7"} <= {*world.ids("prompts")}
    before = world.ids("prompts_eval")
    world.prepare(DataSection(prompts=prompts, held_out=0.5))
    assert {*before} != {*world.ids("prompts_eval")}, "made again without the text"


def test_too_few_to_split_names_the_file(world):
    section = DataSection(
        sft=world.file("sft.jsonl", [demonstration(0)]),
        prompts=world.file("prompts.jsonl", map(prompt, range(1, 10))),
    )
    with pytest.raises(ValueError, match=r"sft\.jsonl: 1 records are too few to hold out 5%"):
        world.prepare(section)


def test_a_file_of_near_duplicates_alone_is_told_so(world):
    alike = [prompt(0).model_copy(update={"id": f"p{n}"}) for n in range(40)]
    section = DataSection(
        sft=world.file("sft.jsonl", map(demonstration, range(1, 10))),
        prompts=world.file("prompts.jsonl", alike),
    )
    said = (
        r"prompts\.jsonl: all 40 records lie in groups of near-duplicates too large to hold out "
        r"5%; name held-out ones of your own in data\.prompts_eval$"
    )
    with pytest.raises(ValueError, match=said):
        world.prepare(section)


def test_verdicts_come_from_the_file_and_a_bad_batch_goes_back(world):
    """Batch one: 2 of 5 acceptable; batch two: 5 of 5."""
    records = [demonstration(n, "one" if n < 5 else "two") for n in range(10)]
    verdicts = [Verdict(id=f"s{n}", acceptable=n > 2) for n in range(10)]
    section = DataSection(
        sft=world.file("sft.jsonl", records),
        audits=world.file("audits.jsonl", verdicts),
        held_out=0.2,
    )
    world.prepare(section, CURATION)
    assert sorted(world.ids("sft") + world.ids("sft_eval")) == ["s5", "s6", "s7", "s8", "s9"]
    report = json.loads((world.out / "curation.json").read_text("utf-8"))
    assert [batch["accepted"] for batch in report["batches"]] == [False, True]
    world.prepare(section)
    assert len(world.ids("sft")) == 8 and not (world.out / "curation.json").exists()


def test_a_verdict_outside_the_sample_is_heeded(world):
    """Of 10 demonstrations 5 are sampled, all acceptable; one of the others is known to be bad, as
    after another seed or order of the file."""
    sample = audit_samples(list(map(demonstration, range(10))), 5, 0)["ann", "one"]
    sampled = {record.id for record in sample}
    bad = next(f"s{n}" for n in range(10) if f"s{n}" not in sampled)
    verdicts = [Verdict(id=name, acceptable=name != bad) for name in sorted({*sampled, bad})]
    section = DataSection(
        sft=world.file("sft.jsonl", map(demonstration, range(10))),
        audits=world.file("audits.jsonl", verdicts),
        held_out=0.2,
    )
    world.prepare(section, CURATION)
    kept = {f"s{n}" for n in range(10)} - {bad}
    assert {*world.ids("sft"), *world.ids("sft_eval")} == kept
    (report,) = json.loads((world.out / "curation.json").read_text("utf-8"))["batches"]
    assert (report["dropped"], report["refused_outside"], report["audit"]["acceptable"]) == (
        1,
        1,
        5,
    )


def test_a_sampled_record_without_verdict_is_named(world):
    audits = world.file("audits.jsonl", [Verdict(id="s0", acceptable=True)])
    sft = world.file("sft.jsonl", map(demonstration, range(5)))
    with pytest.raises(ValueError, match=r"audits\.jsonl: no verdict on s[1-4], which was sampled"):
        world.prepare(DataSection(sft=sft, audits=audits), CURATION)


def test_curation_without_an_auditor_says_what_to_do():
    with pytest.raises(ValueError, match=r"data\.audits .* or set sft\.curation to null"):
        file_auditor(None)


def test_nothing_accepted_is_an_error(world):
    section = DataSection(sft=world.file("sft.jsonl", map(demonstration, range(5))))
    with pytest.raises(ValueError, match=r"every batch was sent back .*sft\.curation\.threshold"):
        world.prepare(section, CURATION, lambda record: False)


def test_unchanged_sources_are_not_prepared_again(world):
    section = DataSection(prompts=world.file("prompts.jsonl", map(prompt, range(10))))
    world.prepare(section)
    before = (world.out / "prompts.jsonl").stat().st_mtime_ns
    world.prepare(section)
    assert (world.out / "prompts.jsonl").stat().st_mtime_ns == before
    world.file("prompts.jsonl", map(prompt, range(9)))
    world.prepare(section)
    assert len(world.ids("prompts") + world.ids("prompts_eval")) == 9


def test_kinds_that_are_no_longer_named_do_not_stay_behind(world):
    prompts = world.file("prompts.jsonl", map(prompt, range(10)))
    sft = world.file("sft.jsonl", map(demonstration, range(10)))
    world.prepare(DataSection(sft=sft, prompts=prompts, held_out=0.3))
    world.prepare(DataSection(prompts=prompts))
    assert not (world.out / "sft.jsonl").exists() and (world.out / "prompts.jsonl").exists()


def test_sources_are_not_replaced_by_what_is_made_of_them_nor_anything_else(world):
    sources = world.folder / "mine"
    given = DataSection(prompts=world.file("mine/prompts.jsonl", map(prompt, range(9))))
    before = (sources / "prompts.jsonl").read_bytes()
    world.out = sources
    with pytest.raises(
        ValueError, match="prompts.jsonl: lies in .*mine, .* move it, or give the run"
    ):
        world.prepare(given)
    assert (sources / "prompts.jsonl").read_bytes() == before
    world.out = world.folder / "data"
    world.out.mkdir()
    (world.out / "NOTES.md").write_text("kept")
    (world.out / "rankings.jsonl").write_text("of other sources")
    world.prepare(given)
    assert (world.out / "NOTES.md").read_text() == "kept"
    assert not (world.out / "rankings.jsonl").exists()
