from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.apps.annotate.audit import Audit
from rlhf.apps.annotate.job import Job, open_job, rankings_name
from rlhf.apps.annotate.ranking import Answer
from rlhf.apps.annotate.store import Store, Work
from rlhf.data.records import RankingRecord, read_jsonl, write_jsonl
from tests.apps.annotate.worlds import collect_folder, task


def by_given_index(work: Work, ranks: tuple[int, ...], grades: tuple[int, ...]) -> Answer:
    """What the page sends for ranks of the given order."""
    shown = tuple(ranks[index] for index in work.shown)
    return Answer(ranks=shown, grades=grades, label="helpful")


def answer_all(job: Job, annotator: str, overlap: int = 1) -> None:
    store = Store(job.database, overlap=overlap)
    while work := store.claim(annotator):
        store.answer(annotator, work.key, by_given_index(work, (2, 1, 2, 3), (4, 1)))


def test_export_writes_valid_records_in_the_given_order(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=3, held_out=2)
    answer_all(job, "ann")
    assert job.export() == {tmp_path / "eval_rankings.jsonl": 2, tmp_path / "rankings.jsonl": 3}
    records = list(read_jsonl(tmp_path / "rankings.jsonl", RankingRecord))
    assert [record.id for record in records] == ["t0", "t1", "t2"]
    for number, record in enumerate(records):
        assert record.responses == task(number).responses
        assert (record.ranks, record.grades) == ((2, 1, 2, 3), (4, 1))
        assert (record.annotator, record.simulated) == ("ann", False)
        assert record.time is not None
    held_out = read_jsonl(tmp_path / "eval_rankings.jsonl", RankingRecord)
    assert [record.id for record in held_out] == ["e0", "e1"]


def test_a_single_response_cannot_be_ranked(tmp_path: Path) -> None:
    alone = task(0).model_copy(update={"responses": task(0).responses[:1]})
    write_jsonl(tmp_path / "tasks.jsonl", [alone])
    with pytest.raises(ValueError, match=r"tasks.jsonl: task 't0' has one response"):
        open_job(tmp_path)


def test_all_responses_tied(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=1)
    store = Store(job.database)
    work = store.claim("ann")
    assert work is not None
    store.answer("ann", work.key, Answer(ranks=(3, 3, 3, 3), label="helpful"))
    job.export()
    (record,) = read_jsonl(tmp_path / "rankings.jsonl", RankingRecord)
    assert (record.ranks, record.grades) == ((1, 1, 1, 1), ())


def test_a_partial_export_writes_no_empty_file(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=1, held_out=1)
    assert job.export() == {}
    store = Store(job.database)
    work = store.claim("ann")
    assert work is not None and work.task.id == "e0"  # held-out tasks come first
    store.answer("ann", work.key, by_given_index(work, (2, 1, 2, 3), (4, 1)))
    assert job.export() == {tmp_path / "eval_rankings.jsonl": 1}
    assert not (tmp_path / "rankings.jsonl").exists()


def test_several_answers_to_a_task_have_ids_of_their_own(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=1)
    answer_all(job, "ann", overlap=2)
    answer_all(job, "bob", overlap=2)
    job.export()
    records = read_jsonl(tmp_path / "rankings.jsonl", RankingRecord)
    assert [record.id for record in records] == ["t0@ann", "t0@bob"]


def test_what_was_sent_back_or_flagged_stays_out(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=2)
    store = Store(job.database, overlap=2)
    work = store.claim("ann")
    assert work is not None
    store.answer("ann", work.key, by_given_index(work, (2, 1, 2, 3), (4, 1)))
    other = store.claim("bob")
    assert other is not None and other.task.id == "t0"
    store.flag("bob", other.key, "")
    assert job.export() == {}
    Audit(job.database).put_back(other.key)
    assert job.export() == {tmp_path / "rankings.jsonl": 1}
    Audit(job.database).judge("zoe", "ann", 1, False, "no")
    assert job.export() == {}
    assert sorted(path.name for path in tmp_path.glob("rankings*")) == ["rankings.jsonl.withdrawn"]


def test_opening_again_keeps_answers_and_adds_new_tasks(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=1)
    answer_all(job, "ann")
    again = collect_folder(tmp_path, tasks=2)
    assert Store(again.database).progress("ann").tasks == 2
    assert Store(again.database).progress("ann").answered_by_me == 1


def test_tasks_must_not_change_under_the_annotators_hands(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=2)
    collect_folder(tmp_path, tasks=3, responses=5)  # nobody has begun: the new ones count
    work = Store(job.database).claim("ann")
    assert work is not None and len(work.task.responses) == 5
    with pytest.raises(ValueError, match="tasks.jsonl: task 't0' is not what people worked on"):
        collect_folder(tmp_path, tasks=3)
    write_jsonl(tmp_path / "tasks.jsonl", [task(1, 5)])
    with pytest.raises(ValueError, match="'t0'"):
        open_job(tmp_path)


def test_one_file_is_a_job_of_its_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "extra.jsonl", [task(7)])
    job = open_job(tmp_path / "extra.jsonl")
    answer_all(job, "ann")
    assert job.export() == {tmp_path / "extra_rankings.jsonl": 1}
    assert job.database.path.name == "extra.annotation.sqlite"


@pytest.mark.parametrize(
    ("tasks", "rankings"),
    [
        ("tasks.jsonl", "rankings.jsonl"),
        ("eval_tasks.jsonl", "eval_rankings.jsonl"),
        ("more.jsonl.gz", "more_rankings.jsonl"),
    ],
)
def test_names_of_exports(tasks: str, rankings: str) -> None:
    assert rankings_name(tasks) == rankings


def test_no_tasks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tasks.jsonl in it"):
        open_job(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        open_job(tmp_path / "tasks.jsonl")
    assert list(tmp_path.iterdir()) == []
