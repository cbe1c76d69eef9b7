from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from rlhf.apps.annotate.database import Database, Denied, Moved, Unsaved
from rlhf.apps.annotate.ranking import Answer, shown_order
from rlhf.apps.annotate.store import Refused, Store, Work
from tests.apps.annotate.worlds import Clock, collect_folder, failure

ANSWER = Answer(ranks=(1, 2, 3, 4), grades=(1, 2, 3), label="helpful")

# An annotator in a process of its own: takes a task, waits for the word, then answers until nothing
# is left and says what was stored.
WORKER = """
import sys
from pathlib import Path
from rlhf.apps.annotate.database import Database
from rlhf.apps.annotate.ranking import Answer
from rlhf.apps.annotate.store import Store
store, name = Store(Database(Path(sys.argv[1]))), sys.argv[2]
answer = Answer(ranks=(1, 2, 3, 4), grades=(1, 2, 3), label="helpful")
store.claim(name)
print("ready", flush=True)
sys.stdin.readline()
while work := store.claim(name):
    store.answer(name, work.key, answer)
    print(work.task.id, flush=True)
"""


def worker(path: Path, name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def say_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.close()
    process.stdin = None


def claimed(store: Store, annotator: str) -> Work:
    work = store.claim(annotator)
    assert work is not None
    return work


def test_a_task_is_one_annotators(tmp_path: Path) -> None:
    store = Store(collect_folder(tmp_path, tasks=2).database)
    ann, bob = claimed(store, "ann"), claimed(store, "bob")
    assert (ann.task.id, bob.task.id) == ("t0", "t1")
    assert claimed(store, "ann") == ann  # a page loaded again
    assert store.claim("cat") is None
    assert ann.shown == shown_order("ann", "t0", 4)


def test_overlap_gives_a_task_to_different_annotators(tmp_path: Path) -> None:
    store = Store(collect_folder(tmp_path, tasks=2).database, overlap=2)
    for name in ("ann", "bob"):
        work = claimed(store, name)
        assert work.task.id == "t0"
        store.answer(name, work.key, ANSWER)
    assert claimed(store, "cat").task.id == "t1"
    assert claimed(store, "ann").task.id == "t1"
    assert store.claim("dan") is None
    assert store.progress("ann").settled == 1


def test_ranks_are_mapped_back_and_made_dense(tmp_path: Path) -> None:
    store = Store(collect_folder(tmp_path).database)
    work = claimed(store, "ann")
    # The annotator ranks by given index, 2 and 3 tied; what the page sends is by shown place.
    wanted = [5, 1, 3, 3]
    sent = Answer(ranks=tuple(wanted[i] for i in work.shown), grades=(4, 2), label="helpful")
    store.answer("ann", work.key, sent)
    stored = store.neighbour("ann", work.key + 1, -1)
    assert stored is not None and stored.answer is not None
    assert stored.answer.ranks == (3, 1, 2, 2)
    assert stored.answer.grades == (4, 2)


@pytest.mark.parametrize("ranks", [(1, 2, 3), (1, 2, 3, 4, 5)])
def test_a_wrong_number_of_ranks(tmp_path: Path, ranks: tuple[int, ...]) -> None:
    store = Store(collect_folder(tmp_path).database)
    work = claimed(store, "ann")
    with pytest.raises(ValueError, match=f"{len(ranks)} ranks for 4 responses"):
        store.answer("ann", work.key, ANSWER.model_copy(update={"ranks": ranks}))
    assert claimed(store, "ann").state == "leased"


def test_an_abandoned_task_returns(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(collect_folder(tmp_path, tasks=1).database, lease=60, now=clock)
    ann = claimed(store, "ann")
    clock.time += 59
    assert store.claim("bob") is None
    store.keep("ann", ann.key)
    clock.time += 59
    assert store.claim("bob") is None
    clock.time += 1
    bob = claimed(store, "bob")
    assert bob.task.id == "t0"
    with pytest.raises(Refused, match="lapsed"):
        store.answer("ann", ann.key, ANSWER)
    with pytest.raises(Refused, match="lapsed"):
        store.keep("ann", ann.key)
    store.answer("bob", bob.key, ANSWER)


def test_a_late_answer_counts_while_nobody_else_has_the_task(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(collect_folder(tmp_path, tasks=1).database, lease=60, now=clock)
    ann = claimed(store, "ann")
    clock.time += 3600
    store.answer("ann", ann.key, ANSWER)
    assert store.claim("bob") is None


def test_somebody_elses_work_cannot_be_answered(tmp_path: Path) -> None:
    store = Store(collect_folder(tmp_path).database)
    work = claimed(store, "ann")
    for act in (store.keep, store.skip):
        with pytest.raises(Refused, match="lapsed"):
            act("bob", work.key)
    with pytest.raises(Refused, match="lapsed"):
        store.answer("bob", work.key, ANSWER)


def test_skip_and_take_up(tmp_path: Path) -> None:
    store = Store(collect_folder(tmp_path, tasks=1).database)
    store.skip("ann", claimed(store, "ann").key)
    assert store.claim("ann") is None
    assert store.progress("ann").skipped_by_me == 1
    assert store.progress("ann").settled == 0
    bob = claimed(store, "bob")
    store.skip("bob", bob.key)
    store.take_up_skipped("ann")
    assert claimed(store, "ann").task.id == "t0"


def test_flag_takes_a_task_away_from_everybody(tmp_path: Path) -> None:
    store = Store(collect_folder(tmp_path, tasks=1).database, overlap=2)
    store.flag("ann", claimed(store, "ann").key, "a phone number")
    assert store.claim("bob") is None
    assert (store.progress().settled, store.progress().flagged) == (1, 1)


def test_an_answer_can_be_revised(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(collect_folder(tmp_path, tasks=2).database, now=clock)
    first = claimed(store, "ann")
    clock.time += 10
    store.answer("ann", first.key, ANSWER)
    second = claimed(store, "ann")
    back = store.neighbour("ann", second.key, -1)
    assert back is not None and back.key == first.key and back.seconds == 10
    clock.time += 500
    store.answer("ann", first.key, ANSWER.model_copy(update={"label": "harmless"}))
    revised = store.neighbour("ann", second.key, -1)
    assert revised is not None and revised.answer is not None
    assert revised.answer.label == "harmless"
    assert revised.seconds == 10  # the pace is that of the first answer
    assert store.neighbour("ann", first.key, -1) is None
    assert store.neighbour("bob", second.key, -1) is None


def test_threads_never_share_a_task(tmp_path: Path) -> None:
    store = Store(collect_folder(tmp_path, tasks=60, responses=4).database)

    everybody = Barrier(4)

    def annotate(name: str) -> list[str]:
        done = []
        store.claim(name)
        everybody.wait(timeout=30)
        while work := store.claim(name):
            store.answer(name, work.key, ANSWER)
            done.append(work.task.id)
        return done

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(annotate, ["ann", "bob", "cat", "dan"]))
    assert Counter(name for part in done for name in part) == Counter(
        f"t{number}" for number in range(60)
    )
    assert all(done)


def test_processes_never_share_a_task(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=40)
    workers = [worker(job.database.path, name) for name in ("ann", "bob")]
    done = []
    for process in workers:
        say_go(process)
    for process in workers:
        done.append(process.communicate(timeout=60)[0].split())
    assert all(done)
    assert sorted(done[0] + done[1]) == sorted(f"t{number}" for number in range(40))


def test_kill_loses_no_answer_that_was_acknowledged(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=3000)
    acknowledged: list[str] = []
    for round_number in range(3):
        process = worker(job.database.path, f"ann{round_number}")
        say_go(process)
        assert process.stdout is not None
        acknowledged.append(process.stdout.readline().strip())
        time.sleep(0.05 + 0.03 * round_number)
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        process.wait()
        process.stdout.close()
    with closing(sqlite3.connect(job.database.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        rows = connection.execute(
            "SELECT id, answer FROM work JOIN tasks ON tasks.key = task WHERE state = 'answered'"
        ).fetchall()
    stored = {task_id for task_id, _ in rows}
    assert len(acknowledged) >= 3
    assert set(acknowledged) <= stored
    # At most the answer under way at each kill was stored without being acknowledged.
    assert len(stored) <= len(acknowledged) + 3
    assert all(Answer.model_validate_json(answer) for _, answer in rows)
    assert job.export()[tmp_path / "rankings.jsonl"] == len(stored)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "annotation.sqlite"
    file.write_bytes(b"no database at all, but long enough to be taken for the header of one" * 9)
    with pytest.raises(ValueError, match="file is not a database; restore it from a copy"):
        Database(file)


def test_a_job_that_was_moved_is_told_of_and_not_begun_anew(tmp_path: Path) -> None:
    folder, aside = tmp_path / "a ?#% job", tmp_path / "aside"
    folder.mkdir()
    store = Store(collect_folder(folder, tasks=2).database)
    work = store.claim("ann")
    assert work is not None
    folder.rename(aside)
    for begin in (lambda: None, folder.mkdir, lambda: collect_folder(folder, tasks=1)):
        begin()  # nothing there, an empty folder, another job
        before = sorted(folder.glob("*"))
        with pytest.raises(Moved, match=r"annotation.sqlite: .*aside/.*start rlhf annotate again"):
            store.answer("ann", work.key, ANSWER)
        assert sorted(folder.glob("*")) == before
    folder.rename(tmp_path / "another")
    aside.rename(folder)  # and back: the job goes on
    store.answer("ann", work.key, ANSWER)
    assert store.progress("ann").answered_by_me == 1


def test_a_job_that_moves_in_the_middle_of_a_change(tmp_path: Path) -> None:
    folder = tmp_path / "collect"
    folder.mkdir()
    database = collect_folder(folder).database
    with pytest.raises(Moved), database.transaction():
        folder.rename(tmp_path / "aside")
        raise sqlite3.OperationalError("disk I/O error")


FULL = "the disk is full, or fails; free some space, and do it again"


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    database = collect_folder(tmp_path).database
    with pytest.raises(Unsaved) as raised, database.transaction() as connection:
        connection.execute("PRAGMA max_page_count = 1")  # no more than there are
        connection.execute("INSERT INTO marks VALUES (?, 'behind')", ("x" * 100_000,))
    assert str(raised.value) == f"{database.path}: {FULL}"
    assert raised.value.word == "full"
    with database.reading() as connection:
        assert connection.execute("SELECT * FROM marks").fetchall() == []


@pytest.mark.parametrize(
    "error", [failure(sqlite3.SQLITE_IOERR_SHMSIZE), OSError(errno.ENOSPC, "No space left")]
)
def test_no_room_for_what_lies_beside(tmp_path: Path, error: Exception) -> None:
    database = collect_folder(tmp_path).database
    with pytest.raises(Unsaved, match=FULL), database.transaction():
        raise error


def test_a_job_that_begins_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise failure(sqlite3.SQLITE_FULL)

    monkeypatch.setattr(Database, "_open", fail)
    with pytest.raises(Unsaved, match=FULL):
        Database(tmp_path / "annotation.sqlite")


DENIED = "cannot be opened, or written to; see that this user may write to it and its folder"


def test_a_file_that_cannot_be_opened_is_the_user_s_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "annotation.sqlite"
    path.mkdir()
    with pytest.raises(Denied, match=DENIED) as raised:
        Database(path)
    assert isinstance(raised.value, ValueError)  # exit code 2
    with pytest.raises(Denied, match=f"{tmp_path}/gone/annotation.sqlite: {DENIED}"):
        Database(tmp_path / "gone" / "annotation.sqlite")


@pytest.mark.parametrize(
    "error",
    [
        failure(sqlite3.SQLITE_READONLY_DIRECTORY),
        failure(sqlite3.SQLITE_CANTOPEN),
        PermissionError(errno.EACCES, "Permission denied", "rankings.jsonl"),
    ],
)
def test_a_file_that_is_no_longer_for_this_user(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = collect_folder(tmp_path).database
    with pytest.raises(Denied, match=DENIED) as raised, database.transaction():
        raise error
    assert raised.value.word == "denied"

    def closed(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(Denied, match=DENIED), database.reading():
        pass


def test_another_writer_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = collect_folder(tmp_path).database
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("rlhf.apps.annotate.database.PATIENCE", 0)
        with pytest.raises(Unsaved, match="something else has been writing to it") as raised:
            Store(database).claim("ann")
    assert raised.value.word == "busy"


def test_other_errors_of_the_database_stay_what_they_are(tmp_path: Path) -> None:
    database = collect_folder(tmp_path).database
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        with database.reading() as connection:
            connection.execute("SELECT * FROM nowhere")
