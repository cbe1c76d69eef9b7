from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rlhf.apps.annotate.job import Job, open_job
from rlhf.apps.annotate.label_studio import read_answers, write_tasks
from rlhf.data.records import RankingRecord, read_jsonl
from tests.apps.annotate.test_desk import answer_all, make_desk
from tests.apps.annotate.worlds import collect_folder, task


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return collect_folder(tmp_path, tasks=2, held_out=1)


def exported(job: Job) -> Any:
    path = job.folder / "label_studio.json"
    assert write_tasks(job, path) == 3
    return json.loads(path.read_text(encoding="utf-8"))


def annotated(row: Any, order: list[str], by: object = 7, label: str | None = "harmless") -> Any:
    results: list[Any] = [
        {"type": "ranker", "from_name": "rank", "value": {"ranker": {"rank": order}}}
    ]
    if label:
        results.append({"type": "choices", "value": {"choices": [label]}})
    return {
        "id": 1,
        "completed_by": by,
        "created_at": "2026-05-01T10:00:00Z",
        "was_cancelled": False,
        "result": results,
    }


def read_back(job: Job, rows: Any) -> dict[Path, int]:
    path = job.folder / "export.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return read_answers(job, path)


def test_tasks_are_shuffled_and_without_sources(job: Job) -> None:
    rows = exported(job)
    text = json.dumps(rows)
    assert not any(word in text for word in ("secret", "7b", "13b", "t0/", "baichuan"))
    assert [row["data"]["task"] for row in rows] == ["e0", "t0", "t1"]
    given = [response.text for response in task(0).responses]
    for row in rows:
        answers = row["data"]["answers"]
        assert [answer["id"] for answer in answers] == ["A", "B", "C", "D"]
        assert sorted(answer["body"] for answer in answers) == sorted(given)
    assert any([a["body"] for a in row["data"]["answers"]] != given for row in rows)
    assert rows[0]["data"]["prompt"].startswith("[user] I want to write more.\n\n[assistant]")


def test_orders_come_back_as_ranks_of_the_given_responses(job: Job) -> None:
    rows = exported(job)
    rows[1]["annotations"] = [annotated(rows[1], ["C", "A", "D", "B"])]
    assert read_back(job, rows) == {job.folder / "rankings.jsonl": 1}
    (record,) = read_jsonl(job.folder / "rankings.jsonl", RankingRecord)
    bodies = {answer["id"]: answer["body"] for answer in rows[1]["data"]["answers"]}
    best_first = sorted(range(4), key=lambda index: record.ranks[index])
    assert [record.responses[i].text for i in best_first] == [bodies[x] for x in "CADB"]
    assert record.responses == task(0).responses  # the sources are those of the tasks file
    assert (record.id, record.annotator, record.grades) == ("t0", "7", ())
    assert record.prompt.label == "harmless"
    assert record.time is not None


def test_several_annotators_and_cancelled_work(job: Job) -> None:
    rows = exported(job)
    cancelled = {**annotated(rows[2], ["A", "B", "C", "D"]), "was_cancelled": True}
    rows[2]["annotations"] = [
        annotated(rows[2], ["A", "B", "C", "D"], {"id": 3, "email": "ann@x"}, None),
        cancelled,
        annotated(rows[2], ["D", "C", "B", "A"], {"id": 4}, None),
    ]
    read_back(job, rows)
    records = list(read_jsonl(job.folder / "rankings.jsonl", RankingRecord))
    assert [record.id for record in records] == ["t1@ann@x", "t1@4"]
    assert [record.prompt.label for record in records] == ["helpful", "helpful"]
    assert [5 - rank for rank in records[0].ranks] == list(records[1].ranks)


def as_json_min(row: Any) -> list[Any]:
    """The rows that label-studio-sdk 2.1.2's converter makes of one of the JSON export."""
    return [
        {
            **row["data"],
            "id": 5,
            "rank": [{"ranker": made["result"][0]["value"]["ranker"]}],
            "label": made["result"][1]["value"]["choices"][0],
            "annotator": made["completed_by"],
            "annotation_id": made["id"],
            "created_at": made["created_at"],
            "updated_at": made["created_at"],
            "lead_time": 9.5,
        }
        for made in row["annotations"]
    ]


def test_json_min_gives_the_same_records(job: Job) -> None:
    rows = exported(job)[:2]
    rows[0]["annotations"] = [annotated(rows[0], ["B", "A", "D", "C"])]
    rows[1]["annotations"] = [
        annotated(rows[1], ["C", "A", "D", "B"], "ann@x"),
        annotated(rows[1], ["D", "A", "C", "B"], 3, "helpful"),
    ]
    files = read_back(job, rows)
    from_json = {path: path.read_bytes() for path in files}
    flat = [each for row in rows for each in as_json_min(row)]
    unannotated = {**exported(job)[2]["data"], "id": 6, "annotator": {}, "annotation_id": None}
    assert read_back(job, [*flat, unannotated]) == files
    assert {path: path.read_bytes() for path in files} == from_json
    records = read_jsonl(job.folder / "rankings.jsonl", RankingRecord)
    assert [record.prompt.label for record in records] == ["harmless", "helpful"]


def test_the_interface_shows_what_the_tasks_hold(job: Job) -> None:
    (row, *_) = exported(job)
    tags = list(ElementTree.parse(job.folder / "label_studio.interface.xml").iter())
    shown = {value.removeprefix("$") for tag in tags if (value := tag.get("value", ""))[:1] == "$"}
    assert shown == {"category", "prompt", "answers"} <= row["data"].keys()
    named = {tag.get("name") for tag in tags} - {None}
    assert named == {"prompt", "answers", "rank", "label"}
    assert {tag.get("toName") for tag in tags} - {None} <= named
    assert {tag.get("value") for tag in tags if tag.tag == "Choice"} == {"helpful", "harmless"}


def annotators(path: Path) -> list[str]:
    return [record.annotator for record in read_jsonl(path, RankingRecord)]


def import_all(job: Job) -> None:
    """Read back the training tasks, and not the held-out one."""
    rows = exported(job)
    for row in rows[1:]:
        row["annotations"] = [annotated(row, ["A", "B", "C", "D"], "team")]
    assert read_back(job, rows) == {job.folder / "rankings.jsonl": 2}


def test_the_page_leaves_what_was_read_from_label_studio(job: Job) -> None:
    desk = make_desk(job)
    answer_all(desk)
    rankings, held_out = job.folder / "rankings.jsonl", job.folder / "eval_rankings.jsonl"
    assert (annotators(rankings), annotators(held_out)) == (["ann", "ann"], ["ann"])
    held_out.unlink()
    import_all(job)
    assert desk.update_export() == {held_out: 1}  # the page's own goes on
    make_desk(open_job(job.folder))
    assert (annotators(rankings), annotators(held_out)) == (["team", "team"], ["ann"])
    assert job.foreign() == [rankings]
    job.export()  # somebody asks for it, and it is the page's again
    assert annotators(rankings) == ["ann", "ann"] and job.foreign() == []
    rankings.unlink()
    assert rankings in desk.update_export()


def test_label_studio_before_the_page_has_an_answer(job: Job) -> None:
    import_all(job)
    desk = make_desk(job)
    assert job.export() == {}  # nothing to write over it with
    answer_all(desk)
    assert annotators(job.folder / "rankings.jsonl") == ["team", "team"]
    (job.folder / "rankings.jsonl").unlink()  # nothing is left to spare
    desk.update_export()
    assert annotators(job.folder / "rankings.jsonl") == ["ann", "ann"]


def test_what_is_no_order(job: Job) -> None:
    for order in (["A", "B", "C"], ["A", "A", "B", "C"], ["A", "B", "C", "E"]):
        rows = exported(job)
        rows[0]["annotations"] = [annotated(rows[0], order)]
        with pytest.raises(
            ValueError, match="task 'e0': the ranking .* is not an order of A B C D"
        ):
            read_back(job, rows)


def test_submitted_without_a_ranking(job: Job) -> None:
    rows = exported(job)
    rows[0]["annotations"] = [annotated(rows[0], [])]
    rows[0]["annotations"][0]["result"].pop(0)
    with pytest.raises(ValueError, match="task 'e0': submitted without a ranking"):
        read_back(job, rows)


def test_what_is_no_export_of_this_job(job: Job) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_answers(job, job.folder / "nowhere.json")
    with pytest.raises(ValueError, match="not Label Studio's JSON"):
        read_back(job, {"rows": []})
    rows = exported(job)
    rows[0]["data"]["task"] = "elsewhere"
    with pytest.raises(ValueError, match="'elsewhere' of eval_tasks.jsonl is not this job's"):
        read_back(job, rows)
    rows = exported(job)
    rows[0]["annotations"] = [annotated(rows[0], ["A", "B", "C", "D"], label="rude")]
    with pytest.raises(ValueError, match="task 'e0'"):
        read_back(job, rows)


def test_the_tasks_themselves_are_not_overwritten(job: Job) -> None:
    with pytest.raises(ValueError, match="would be overwritten; give Label Studio's file"):
        write_tasks(job, job.sources[0])


@pytest.mark.parametrize("label", ["useful", 5])
def test_a_label_of_another_kind_is_told_in_a_line(job: Job, label: Any) -> None:
    row = exported(job)[0]
    work = annotated(row, ["A", "B", "C", "D"])
    work["result"][1]["value"]["choices"] = [label] if label == "useful" else label
    with pytest.raises(ValueError, match=f"the label {label!r} is none of helpful harmless"):
        read_back(job, [{**row, "annotations": [work]}])
