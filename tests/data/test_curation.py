from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from rlhf.config.schema import CurationSection
from rlhf.data.curation import audit_samples, curate
from rlhf.data.records import Message, SFTRecord
from rlhf.ops.intervals import wilson

SETTINGS = CurationSection(sample=20, threshold=0.6)


def record(identity: str, annotator: str | None, batch: str | None, answer: str) -> SFTRecord:
    messages = (Message(role="user", content="Q"), Message(role="assistant", content=answer))
    return SFTRecord(
        id=identity, messages=messages, source="crowd", annotator=annotator, batch=batch
    )


def batch(annotator: str, name: str, good: int, bad: int) -> list[SFTRecord]:
    answers = ["good"] * good + ["bad"] * bad
    return [record(f"{annotator}-{name}-{i}", annotator, name, a) for i, a in enumerate(answers)]


def is_good(candidate: SFTRecord) -> bool:
    return candidate.messages[-1].content == "good"


def refusing(records: list[SFTRecord], refused: dict[str, int]) -> Callable[[SFTRecord], bool]:
    """Refuses so many of a batch's sample, the first ones."""
    samples = audit_samples(records, SETTINGS.sample, seed=0)
    failed = {
        one.id for (_, name), sample in samples.items() for one in sample[: refused.get(name, 0)]
    }
    return lambda candidate: candidate.id not in failed


def test_the_lower_bound_decides_not_the_rate() -> None:
    # 20 of 100 are audited. 16 of 20: lower bound 0.608; 15 of 20: rate 0.75, lower bound 0.554.
    records = batch("ann", "one", 100, 0) + batch("ann", "two", 100, 0)
    auditor = refusing(records, {"one": 4, "two": 5})
    result = curate(records, auditor, SETTINGS, seed=0)
    first, second = result.report.batches
    assert first.accepted and first.audit.low == pytest.approx(0.608, abs=1e-3)
    assert not second.accepted and second.audit.low == pytest.approx(0.554, abs=1e-3)
    assert result.kept == [one for one in records[:100] if auditor(one)]
    assert (first.dropped, second.dropped) == (4, 100)
    assert first.reason == (
        "accepted: 16 of 20 audited records acceptable, bound 0.61; the others dropped"
    )
    assert second.reason == (
        "sent back: 15 of 20 audited records acceptable, bound 0.55 is below 0.6"
    )
    assert set(result.dropped) == {one.id for one in records} - {one.id for one in result.kept}
    failed = next(one for one in records if not auditor(one))
    assert result.dropped[failed.id] == "not acceptable to the auditor"
    assert result.dropped["ann-two-0"] == second.reason


def test_of_a_batch_that_was_audited_whole_the_rate_is_known() -> None:
    # 5 of 5, of which Wilson's bound for a batch without end would be 0.57; 3 of 5 are 0.6 exactly.
    records = batch("ann", "one", 5, 0) + batch("ann", "two", 3, 2) + batch("ann", "three", 2, 3)
    one, two, three = curate(records, is_good, SETTINGS, seed=0).report.batches
    assert (one.audit.low, one.audit.high, one.accepted) == (1, 1, True)
    assert (two.audit.low, two.audit.high, two.accepted) == (0.6, 0.6, True)
    assert (three.audit.low, three.audit.high, three.accepted) == (0.4, 0.4, False)


def test_what_a_verdict_outside_the_sample_is_against_goes_too() -> None:
    records = batch("ann", "one", 100, 0) + batch("ann", "two", 100, 0)
    sampled = {one.id for sample in audit_samples(records, 20, 0).values() for one in sample}
    outside = [one.id for one in records if one.id not in sampled]
    auditor = refusing(records, {"one": 2, "two": 20})
    refused = {one.id for one in records if not auditor(one)}  # those in the sample count once
    refused |= {*outside[:3], outside[-1], "of another file"}
    before = curate(records, auditor, SETTINGS, seed=0)
    result = curate(records, auditor, SETTINGS, seed=0, refused=refused)
    first, second = result.report.batches
    assert first.audit == before.report.batches[0].audit, "the rate is the sample's"
    assert (first.dropped, first.refused_outside) == (5, 3)
    assert first.reason == (
        "accepted: 18 of 20 audited records acceptable, bound 0.72; the others dropped; "
        "3 refused outside the sample dropped"
    )
    assert result.kept == [one for one in records[:100] if one.id not in refused]
    assert result.dropped[outside[0]] == "not acceptable to the auditor, outside the sample"
    assert (second.accepted, second.dropped, second.refused_outside) == (False, 100, 1)
    assert result.dropped[outside[-1]] == second.reason


def test_only_the_sample_is_audited() -> None:
    asked = []

    def auditor(candidate: SFTRecord) -> bool:
        asked.append(candidate.id)
        return True

    result = curate(batch("ann", "one", 100, 0), auditor, SETTINGS, seed=0)
    assert len(asked) == len(set(asked)) == 20
    assert len(result.kept) == 100
    assert result.report.batches[0].audit.records == 100
    assert result.report.batches[0].audit.audited == 20


def test_a_bad_group_is_caught_and_groups_are_summed() -> None:
    records = batch("good", "one", 20, 0) + batch("bad", "one", 4, 16) + batch("good", "two", 19, 1)
    result = curate(records, is_good, SETTINGS, seed=0)
    assert {kept.annotator for kept in result.kept} == {"good"}
    groups = result.report.groups
    assert (groups["good"].acceptable, groups["good"].audited) == (39, 40)
    assert groups["bad"].high < SETTINGS.threshold < groups["good"].low


def test_batches_of_a_group_count_by_their_size() -> None:
    """Ten of 20 of 1,000, and all 20 of 20, by hand: rate 520 / 1020; the small batch is known. The
    large one leaves 980 / 999 / 20 * (1000 / 1020)^2 = 0.0471 of P (1 - P) open."""
    records = batch("ann", "large", 1000, 0) + batch("ann", "small", 20, 0)
    audit = curate(records, refusing(records, {"large": 10}), SETTINGS, seed=0).report.groups["ann"]
    assert (audit.records, audit.audited, audit.acceptable) == (1020, 40, 30)
    rate, left_open = 520 / 1020, 980 / 999 / 20 * (1000 / 1020) ** 2
    trials = rate * (1 - rate) / (left_open * 0.5 * 0.5)
    assert (audit.low, audit.high) == pytest.approx(wilson(rate * trials, trials))


def test_one_batch_is_its_group() -> None:
    records = batch("ann", "one", 100, 0)
    report = curate(records, refusing(records, {"one": 4}), SETTINGS, seed=0).report
    own, group = report.batches[0].audit, report.groups["ann"]
    assert (group.low, group.high) == pytest.approx((own.low, own.high))


@pytest.mark.parametrize(
    "batches",
    [
        {"large": (500, 0.9), "small": (25, 0.5)},
        {"large": (300, 0.5), **{f"small {n}": (30, 1.0) for n in range(10)}},
        {f"batch {n}": (40, 0.8) for n in range(4)},
    ],
)
def test_a_group_s_interval_covers_its_rate(batches: dict[str, tuple[int, float]]) -> None:
    covered = 0
    records = [each for name, (size, _) in batches.items() for each in batch("ann", name, size, 0)]
    for seed in range(100):
        random = Random(seed)
        good = {each.id: random.random() < batches[str(each.batch)][1] for each in records}
        result = curate(records, lambda each, good=good: good[each.id], SETTINGS, seed)
        audit = result.report.groups["ann"]
        covered += audit.low <= sum(good.values()) / len(good) <= audit.high
    assert covered >= 90  # of 95 expected, with 2.2 of chance


def test_order_is_kept_when_batches_interleave() -> None:
    pairs = zip(batch("a", "one", 20, 0), batch("b", "one", 20, 0), strict=True)
    records = [each for pair in pairs for each in pair]
    assert curate(records, is_good, SETTINGS, seed=0).kept == records


def test_the_sample_follows_the_seed_and_the_batch_alone() -> None:
    def sampled(records: list[SFTRecord], seed: int) -> list[str]:
        asked = []

        def auditor(candidate: SFTRecord) -> bool:
            asked.append(candidate.id)
            return True

        curate(records, auditor, SETTINGS, seed)
        return [identity for identity in asked if identity.startswith("ann")]

    own = batch("ann", "one", 100, 0)
    assert sampled(own, 1) == sampled(batch("other", "one", 50, 0) + own, 1)
    assert sampled(own, 1) != sampled(own, 2)


def test_work_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' has no annotator or no batch"):
        curate([record("x", "ann", None, "good")], is_good, SETTINGS, seed=0)
