from __future__ import annotations

import pytest

from rlhf.config.schema import CurationSection
from rlhf.data.curation import curate
from rlhf.data.records import Message, SFTRecord

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


def test_the_lower_bound_decides_not_the_rate() -> None:
    # All 20 are audited. 17 of 20: lower bound 0.640; 16 of 20: rate 0.8, lower bound 0.584.
    records = batch("ann", "one", 17, 3) + batch("ann", "two", 16, 4)
    result = curate(records, is_good, SETTINGS, seed=0)
    first, second = result.report.batches
    assert first.accepted and first.audit.low == pytest.approx(0.640, abs=1e-3)
    assert not second.accepted and second.audit.low == pytest.approx(0.584, abs=1e-3)
    assert result.kept == records[:17]
    assert (first.dropped, second.dropped) == (3, 20)
    assert "17 of 20" in first.reason and "below 0.6" in second.reason
    assert set(result.dropped) == {one.id for one in records[17:]}
    assert result.dropped["ann-one-17"] == "not acceptable to the auditor"
    assert result.dropped["ann-two-0"] == second.reason


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
