from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from rlhf.apps.annotate.accounts import add_user
from rlhf.apps.annotate.audit import Audit
from rlhf.apps.annotate.database import Database, Moved
from rlhf.apps.annotate.desk import Desk
from rlhf.apps.annotate.job import Job
from rlhf.apps.annotate.ranking import Answer
from rlhf.apps.annotate.store import Store
from rlhf.data.records import RankingRecord, read_jsonl
from rlhf.data.taxonomy import Taxonomy
from rlhf.runtime.manifest import MANIFEST, StageManifest, outputs_of
from rlhf.runtime.run_dir import RunDir
from tests.apps.annotate.worlds import collect_folder, failure

TAXONOMY = """
categories:
  - {id: writing, zh: 写作, en: Writing, children: [
      {id: everyday, zh: 日常, en: Everyday, children: [
        {id: diary, zh: 日记, en: Diary, example_zh: 写日记, example_en: Write a diary}]}]}
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return collect_folder(tmp_path, tasks=2)


@pytest.fixture
def desk(job: Job) -> Desk:
    return make_desk(job)


def make_desk(job: Job) -> Desk:
    path = job.folder / "taxonomy.yaml"
    path.write_text(TAXONOMY, encoding="utf-8")
    return Desk(job, Store(job.database), Audit(job.database), Taxonomy.load(path))


def call(desk: Desk, user: str, action: str, **fields: Any) -> Any:
    # Through JSON both ways, as the page does it.
    answer = desk.handle(user, json.dumps({"action": action, **fields}))
    return json.loads(json.dumps(answer))


def answer(desk: Desk, user: str, key: int) -> Any:
    content = {"ranks": [1, 2, 2, 3], "grades": [5, 1], "label": "harmless", "note": "hm"}
    return call(desk, user, "answer", key=key, answer=content)


def test_a_task_is_shown_without_its_sources(desk: Desk) -> None:
    view = call(desk, "ann", "open")
    text = json.dumps(view)
    assert not any(
        word in text for word in ("secret", "provenance", "7b", "13b", "t0/", "baichuan")
    )
    task = view["task"]
    assert len(task["responses"]) == 4
    assert task["category"] == [
        {"en": "Writing", "zh": "写作"},
        {"en": "no such secondary", "zh": "no such secondary"},
        {"en": "diary entry", "zh": "diary entry"},
    ]
    assert (task["ranks"], task["answered"], task["label"]) == (None, False, None)


def test_responses_stand_in_the_recorded_order(desk: Desk) -> None:
    view = call(desk, "ann", "open")
    work = desk.store.claim("ann")
    assert work is not None
    texts = [response.text for response in work.task.responses]
    assert view["task"]["responses"] == [texts[index] for index in work.shown]


def test_answer_leads_to_the_next_task_and_back(desk: Desk) -> None:
    first = call(desk, "ann", "open")["task"]
    second = answer(desk, "ann", first["key"])["task"]
    assert second["key"] != first["key"]
    back = call(desk, "ann", "step", key=second["key"], step=-1)["task"]
    assert back["key"] == first["key"] and back["answered"]
    assert (back["ranks"], back["grades"]) == ([1, 2, 2, 3], [5, 1])
    assert (back["label"], back["note"]) == ("harmless", "hm")
    assert call(desk, "ann", "step", key=first["key"], step=-1) == {"error": "first"}
    assert call(desk, "ann", "step", key=first["key"], step=1)["task"]["key"] == second["key"]


def test_the_last_answer_exports(desk: Desk, tmp_path: Path) -> None:
    key = call(desk, "ann", "open")["task"]["key"]
    key = answer(desk, "ann", key)["task"]["key"]
    assert not (tmp_path / "rankings.jsonl").exists()
    view = answer(desk, "ann", key)
    assert view["task"] is None
    assert view["progress"]["settled"] == view["progress"]["tasks"] == 2
    assert len((tmp_path / "rankings.jsonl").read_text().splitlines()) == 2


def test_a_killed_server_exports_when_it_starts_again(desk: Desk, tmp_path: Path) -> None:
    while task := call(desk, "ann", "open")["task"]:
        answer(desk, "ann", task["key"])
    (tmp_path / "rankings.jsonl").unlink()
    make_desk(desk.job)
    assert (tmp_path / "rankings.jsonl").exists()


def test_with_an_auditor_the_export_waits_for_verdicts(desk: Desk, tmp_path: Path) -> None:
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    while task := call(desk, "ann", "open")["task"]:
        answer(desk, "ann", task["key"])
    assert not (tmp_path / "rankings.jsonl").exists()
    overview = call(desk, "zoe", "open")
    assert overview["screen"] == "audit"
    place = [overview["batches"][0]["annotator"], overview["batches"][0]["number"]]
    sample = call(desk, "zoe", "batch", batch=place)["open"]["sample"]
    assert [item["acceptable"] for item in sample] == [None, None]
    after = call(desk, "zoe", "check", batch=place, key=sample[0]["key"], good=True)
    assert after["open"]["sample"][0]["acceptable"] is True
    call(desk, "zoe", "judge", batch=place, good=True)
    assert (tmp_path / "rankings.jsonl").exists()


def answer_all(desk: Desk, user: str = "ann") -> None:
    while task := call(desk, user, "open")["task"]:
        answer(desk, user, task["key"])


def exports(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*rankings*"))


def test_what_is_sent_back_after_the_export_is_withdrawn(desk: Desk, tmp_path: Path) -> None:
    answer_all(desk)
    before = (tmp_path / "rankings.jsonl").read_bytes()
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    call(desk, "zoe", "judge", batch=["ann", 1], good=True)
    assert exports(tmp_path) == ["rankings.jsonl"]
    call(desk, "zoe", "judge", batch=["ann", 1], good=False, note="too quick")
    assert exports(tmp_path) == ["rankings.jsonl.withdrawn"]
    assert (tmp_path / "rankings.jsonl.withdrawn").read_bytes() == before
    make_desk(desk.job)
    assert exports(tmp_path) == ["rankings.jsonl.withdrawn"]
    answer_all(desk)
    assert exports(tmp_path) == ["rankings.jsonl.withdrawn"]
    call(desk, "zoe", "judge", batch=["ann", 2], good=True)
    assert exports(tmp_path) == ["rankings.jsonl", "rankings.jsonl.withdrawn"]


def test_a_flagged_task_put_back_withdraws_the_export(desk: Desk, tmp_path: Path) -> None:
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    flagged = call(desk, "ann", "open")["task"]["key"]
    answer(desk, "ann", call(desk, "ann", "flag", key=flagged, note="garbled")["task"]["key"])
    call(desk, "zoe", "judge", batch=["ann", 1], good=True)
    assert exports(tmp_path) == ["rankings.jsonl"]
    call(desk, "zoe", "put_back", key=flagged)
    assert exports(tmp_path) == ["rankings.jsonl.withdrawn"]


def test_more_answers_wanted_withdraw_the_export(desk: Desk, tmp_path: Path) -> None:
    answer_all(desk)
    Desk(desk.job, Store(desk.job.database, overlap=2), desk.audit, desk.taxonomy)
    assert exports(tmp_path) == ["rankings.jsonl.withdrawn"]


def test_an_early_export_stays_while_all_of_it_counts(desk: Desk, tmp_path: Path) -> None:
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    task = answer(desk, "ann", call(desk, "ann", "open")["task"]["key"])["task"]
    desk.job.export()
    early = (tmp_path / "rankings.jsonl").read_bytes()
    answer(desk, "ann", task["key"])
    make_desk(desk.job)
    assert (tmp_path / "rankings.jsonl").read_bytes() == early
    call(desk, "zoe", "judge", batch=["ann", 1], good=False, note="too quick")
    assert exports(tmp_path) == ["rankings.jsonl.withdrawn"]


def test_a_task_flagged_after_an_early_export(job: Job, tmp_path: Path) -> None:
    desk = Desk(job, Store(job.database, overlap=2), Audit(job.database), make_desk(job).taxonomy)
    answer(desk, "ann", call(desk, "ann", "open")["task"]["key"])
    job.export()
    call(desk, "bob", "flag", key=call(desk, "bob", "open")["task"]["key"], note="garbled")
    assert exports(tmp_path) == ["rankings.jsonl.withdrawn"]


def correct(desk: Desk, user: str, key: int) -> Any:
    content = {"ranks": [3, 2, 1, 1], "grades": [2, 2], "label": "helpful"}
    return call(desk, user, "answer", key=key, answer=content)


def as_exported(folder: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Task and grades of the rankings in a folder."""
    records = read_jsonl(folder / "rankings.jsonl", RankingRecord)
    return [(record.id, record.grades) for record in records]


def test_a_correction_reaches_an_early_export(tmp_path: Path) -> None:
    desk = make_desk(collect_folder(tmp_path, tasks=3))
    first = call(desk, "ann", "open")["task"]["key"]
    second = answer(desk, "ann", first)["task"]["key"]
    desk.job.export()
    answer(desk, "ann", second)
    correct(desk, "ann", second)  # nothing of it was exported
    assert as_exported(tmp_path) == [("t0", (5, 1))]
    correct(desk, "ann", first)
    assert as_exported(tmp_path) == [("t0", (2, 2))]
    assert desk.update_export() == {}


def test_a_correction_before_a_crash_reaches_an_early_export(desk: Desk, tmp_path: Path) -> None:
    key = call(desk, "ann", "open")["task"]["key"]
    answer(desk, "ann", key)
    desk.job.export()
    better = Answer(ranks=(3, 2, 1, 1), grades=(2, 2), label="helpful")
    desk.store.answer("ann", key, better)
    assert as_exported(tmp_path) == [("t0", (5, 1))]
    make_desk(desk.job)
    assert as_exported(tmp_path) == [("t0", (2, 2))]


def test_a_correction_brings_back_no_export_that_was_taken_away(desk: Desk, tmp_path: Path) -> None:
    key = call(desk, "ann", "open")["task"]["key"]
    answer(desk, "ann", key)
    desk.job.export()
    (tmp_path / "rankings.jsonl").unlink()
    correct(desk, "ann", key)
    assert exports(tmp_path) == []


def test_a_correction_leaves_an_early_export_that_a_run_has_used(
    desk: Desk, tmp_path: Path
) -> None:
    key = call(desk, "ann", "open")["task"]["key"]
    answer(desk, "ann", key)
    desk.job.export()
    use(tmp_path)
    correct(desk, "ann", key)
    assert as_exported(tmp_path) == [("t0", (5, 1))]
    desk.job.export()
    assert as_exported(tmp_path) == [("t0", (2, 2))]


def use(folder: Path) -> None:
    """A run finishes the stage whose results lie in a folder."""
    manifest = StageManifest(
        stage="collect", status="done", config_hash="", inputs={}, outputs=outputs_of(folder),
        versions={}, started="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")


def test_rankings_that_a_run_has_used_stay(desk: Desk, tmp_path: Path) -> None:
    """Else the run would train reward model and PPO again, unasked."""
    answer_all(desk)
    used = (tmp_path / "rankings.jsonl").read_bytes()
    use(tmp_path)
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    call(desk, "zoe", "judge", batch=["ann", 1], good=False, note="too quick")
    answer_all(desk, "bob")
    call(desk, "zoe", "judge", batch=["bob", 1], good=True)
    assert exports(tmp_path) == ["rankings.jsonl"]
    assert (tmp_path / "rankings.jsonl").read_bytes() == used
    desk.job.export()  # somebody asks for it
    records = read_jsonl(tmp_path / "rankings.jsonl", RankingRecord)
    assert {record.annotator for record in records} == {"bob"}


def test_flag_skip_and_put_back(desk: Desk) -> None:
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    flagged = call(desk, "ann", "open")["task"]["key"]
    skipped = call(desk, "ann", "flag", key=flagged, note="garbled")["task"]["key"]
    view = call(desk, "ann", "skip", key=skipped)
    assert view["task"] is None and view["progress"]["skipped_by_me"] == 1
    assert call(desk, "ann", "take_up")["task"]["responses"]
    overview = call(desk, "zoe", "open")
    assert [item["note"] for item in overview["flagged"]] == ["garbled"]
    assert call(desk, "zoe", "put_back", key=flagged)["flagged"] == []


def test_roles_do_not_mix(desk: Desk) -> None:
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    key = call(desk, "ann", "open")["task"]["key"]
    for action in ("batch", "check", "judge", "put_back"):
        assert call(desk, "ann", action, key=key, batch=["ann", 1]) == {"error": "forbidden"}
    for action in ("answer", "skip", "flag", "keep", "step", "take_up"):
        assert call(desk, "zoe", action, key=key) == {"error": "forbidden"}


@pytest.mark.parametrize(
    ("request_text", "part"),
    [
        ("not json", "JSON"),
        ('{"action": "drop"}', "action"),
        ('{"action": "open", "path": "/etc/passwd"}', "path"),
        ('{"action": "answer"}', "answer: missing"),
        ('{"action": "answer", "answer": {"ranks": [1], "label": "rude"}}', "answer.label"),
        ('{"action": "answer", "answer": {"ranks": [1], "grades": [6]}}', "grades"),
        ('{"action": "skip", "key": 9223372036854775808}', "key: Input should be less than"),
        ('{"action": "step", "key": -1}', "key: Input should be greater than or equal to 0"),
        ('{"action": "open", "batch": ["ann", 9223372036854775808]}', "batch.1: Input should be"),
    ],
)  # fmt: skip
def test_what_the_page_would_never_send(desk: Desk, request_text: str, part: str) -> None:
    error = desk.handle("ann", request_text)["error"]
    assert part in error and "\n" not in error


@pytest.mark.parametrize(
    "data", [["T"], ["T", 1], ["T", "{}", ""], [["T"], "{}"], ["U", "{}"], "TU", {"T": "{}"}, None]
)
def test_calls_in_another_shape_are_answered_to_nobody(desk: Desk, data: Any) -> None:
    pytest.importorskip("gradio")
    from rlhf.apps.annotate.page import answer as answer_call

    tickets = {"T": "ann"}
    assert answer_call(desk, tickets, data) == {"error": "forbidden"}
    opened = answer_call(desk, tickets, ["T", '{"action": "open"}'])
    assert opened["user"] == "ann"


def test_an_answer_to_a_lost_task_is_refused(desk: Desk) -> None:
    assert answer(desk, "ann", 99) == {"error": "lapsed"}


def test_sent_back_words_reach_the_annotator(desk: Desk) -> None:
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    answer(desk, "ann", call(desk, "ann", "open")["task"]["key"])
    call(desk, "zoe", "judge", batch=["ann", 1], good=False, note="too quick")
    assert [batch["note"] for batch in call(desk, "ann", "open")["sent_back"]] == ["too quick"]


def test_no_request_reads_all_work_for_every_task(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    connect = sqlite3.connect

    def connected(*where: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*where, **options)
        connection.set_trace_callback(asked.add)
        return connection

    monkeypatch.setattr("rlhf.apps.annotate.database.sqlite3.connect", connected)
    while task := call(desk, "ann", "open")["task"]:
        answer(desk, "ann", task["key"])
    add_user(desk.job.database, "zoe", "long enough", auditor=True)
    call(desk, "zoe", "judge", batch=["ann", 1], good=False, note="too quick")
    monkeypatch.undo()
    repeated = []
    with desk.job.database.reading() as connection:
        for text in asked:
            if text.split()[0] in ("SELECT", "UPDATE", "DELETE"):
                # Infinity, which `progress` asks with, is traced in a form that cannot be asked.
                plan = connection.execute(f"EXPLAIN QUERY PLAN {text.replace('Inf', '9e999')}")
                # What has a parent is done again for every row of it.
                inner = [row["detail"] for row in plan if row["parent"]]
                repeated += [(text, step) for step in inner if step.startswith("SCAN work")]
    assert any("NOT EXISTS" in text for text in asked) and repeated == []


def test_a_run_sets_the_folder_aside_while_the_page_serves(tmp_path: Path) -> None:
    collect = tmp_path / "run/collect"
    collect.mkdir(parents=True)
    desk = make_desk(collect_folder(collect, tasks=1))
    key = call(desk, "ann", "open")["task"]["key"]
    RunDir(tmp_path / "run").set_aside(collect)
    assert answer(desk, "ann", key) == {"error": "moved"}
    collect.mkdir()
    assert answer(desk, "ann", key) == {"error": "moved"}
    with pytest.raises(Moved):
        desk.update_export()
    assert list(collect.iterdir()) == []


def test_signing_in_to_a_job_that_was_moved(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from starlette.exceptions import HTTPException

    from rlhf.apps.annotate.page import may_enter

    (tmp_path / "collect").mkdir()
    desk = make_desk(collect_folder(tmp_path / "collect", tasks=1))
    add_user(desk.job.database, "ann", "long enough", auditor=False)
    assert may_enter(desk, "ann", "long enough") and not may_enter(desk, "ann", "another one")
    (tmp_path / "collect").rename(tmp_path / "aside")
    with pytest.raises(HTTPException, match="503.*start rlhf annotate again") as raised:
        may_enter(desk, "ann", "long enough")
    assert str(tmp_path) not in str(raised.value)  # who asks has not signed in


def test_a_full_disk_is_told_on_the_page_and_to_who_runs_it(
    job: Job, desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = call(desk, "ann", "open")["task"]["key"]
    told = "the disk is full, or fails; free some space, and do it again"
    with monkeypatch.context() as patch:
        patch.setattr(Database, "_open", no_room)
        assert answer(desk, "ann", key) == {"error": "full"}
    assert caplog.messages == [f"{job.database.path}: {told}"]
    assert answer(desk, "ann", key)["progress"]["answered_by_me"] == 1


def test_signing_in_on_a_full_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    from starlette.exceptions import HTTPException

    from rlhf.apps.annotate.page import may_enter

    monkeypatch.setattr(Database, "_open", no_room)
    with pytest.raises(HTTPException) as raised:
        may_enter(desk, "ann", "long enough")
    assert raised.value.status_code == 503
    assert raised.value.detail == "the disk is full, or fails; free some space, and do it again"


def no_room(*_: object) -> None:
    raise failure(sqlite3.SQLITE_IOERR_SHMSIZE)
