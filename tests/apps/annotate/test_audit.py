from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.apps.annotate.audit import Audit
from rlhf.apps.annotate.job import Job
from rlhf.apps.annotate.ranking import Answer
from rlhf.apps.annotate.store import Refused, Store
from rlhf.ops.intervals import wilson
from tests.apps.annotate.worlds import Clock, collect_folder

ANSWER = Answer(ranks=(1, 2, 3, 4), grades=(1, 2, 3), label="helpful")


def work(store: Store, clock: Clock, annotator: str, count: int) -> list[int]:
    """Keys of so many answers, each of which took as many seconds as its number."""
    keys = []
    for number in range(count):
        claimed = store.claim(annotator)
        assert claimed is not None
        clock.time += number + 1
        store.answer(annotator, claimed.key, ANSWER)
        keys.append(claimed.key)
    return keys


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return collect_folder(tmp_path, tasks=12)


def test_batches_fill_up_per_annotator(job: Job, clock: Clock) -> None:
    store, audit = Store(job.database, batch=3, now=clock), Audit(job.database, sample=2)
    work(store, clock, "ann", 4)
    work(store, clock, "bob", 2)
    sizes = {(batch.annotator, batch.number): batch.answers for batch in audit.batches()}
    assert sizes == {("ann", 1): 3, ("ann", 2): 1, ("bob", 1): 2}
    assert audit.batches()[0].seconds == 2  # of 1, 2, 3
    assert {batch.sample for batch in audit.batches()} == {2, 1}


def test_checks_give_the_interval(job: Job, clock: Clock) -> None:
    store, audit = Store(job.database, now=clock), Audit(job.database, sample=4)
    work(store, clock, "ann", 6)
    sample = audit.to_check("ann", 1)
    assert len(sample) == 4 and all(verdict is None for _, verdict in sample)
    for number, (item, _) in enumerate(sample):
        audit.check("zoe", item.key, number > 0)
    (batch,) = audit.batches()
    assert (batch.checked, batch.acceptable) == (4, 3)
    assert (batch.low, batch.high) == wilson(3, 4)
    assert [verdict for _, verdict in audit.to_check("ann", 1)] == [False, True, True, True]
    audit.check("zoe", sample[0][0].key, True)
    assert audit.batches()[0].acceptable == 4


def test_a_growing_batch_keeps_what_was_checked(job: Job, clock: Clock) -> None:
    store, audit = Store(job.database, now=clock), Audit(job.database, sample=2)
    work(store, clock, "ann", 2)
    before = {item.key for item, _ in audit.to_check("ann", 1)}
    for key in before:
        audit.check("zoe", key, True)
    work(store, clock, "ann", 9)
    assert before <= {item.key for item, _ in audit.to_check("ann", 1)}


def test_a_batch_sent_back_opens_its_tasks_again(job: Job, clock: Clock) -> None:
    store, audit = Store(job.database, batch=3, now=clock), Audit(job.database)
    work(store, clock, "ann", 5)
    with pytest.raises(ValueError, match="why the batch goes back"):
        audit.judge("zoe", "ann", 1, False, " ")
    audit.judge("zoe", "ann", 1, False, "ranks upside down")
    assert store.progress("ann").settled == 2
    assert [batch.note for batch in audit.sent_back("ann")] == ["ranks upside down"]
    assert audit.sent_back("bob") == []
    again = store.claim("ann")
    assert again is not None and again.task.id == "t0" and again.answer is None
    with pytest.raises(Refused, match="gone"):
        audit.judge("zoe", "ann", 1, True, "")
    assert [batch.state for batch in audit.batches()] == ["waiting", "rejected"]


def test_an_accepted_batch_is_closed(job: Job, clock: Clock) -> None:
    store, audit = Store(job.database, now=clock), Audit(job.database)
    (key,) = work(store, clock, "ann", 1)
    audit.judge("zoe", "ann", 1, True, "")
    with pytest.raises(Refused, match="closed"):
        store.answer("ann", key, ANSWER)
    work(store, clock, "ann", 1)
    assert [(batch.number, batch.state) for batch in audit.batches()] == [
        (2, "waiting"),
        (1, "accepted"),
    ]


def test_a_revised_answer_is_unchecked(job: Job, clock: Clock) -> None:
    store, audit = Store(job.database, now=clock), Audit(job.database)
    (key,) = work(store, clock, "ann", 1)
    audit.check("zoe", key, False)
    store.answer("ann", key, ANSWER)
    assert audit.batches()[0].checked == 0


def test_flagged_tasks_can_be_put_back(job: Job) -> None:
    store, audit = Store(job.database), Audit(job.database)
    claimed = store.claim("ann")
    assert claimed is not None
    store.flag("ann", claimed.key, "a phone number")
    assert [(item.task.id, item.note) for item in audit.flagged()] == [("t0", "a phone number")]
    audit.put_back(claimed.key)
    assert audit.flagged() == []
    with pytest.raises(Refused, match="gone"):
        audit.put_back(claimed.key)
    ann, bob = store.claim("ann"), store.claim("bob")
    assert ann is not None and bob is not None
    assert (ann.task.id, bob.task.id) == ("t1", "t0")


def test_what_is_not_answered_cannot_be_checked(job: Job) -> None:
    claimed = Store(job.database).claim("ann")
    assert claimed is not None
    with pytest.raises(Refused, match="gone"):
        Audit(job.database).check("zoe", claimed.key, True)
