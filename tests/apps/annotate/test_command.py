from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf import cli
from rlhf.apps.annotate import command
from rlhf.apps.annotate.accounts import is_auditor, is_password
from rlhf.apps.annotate.command import annotate
from rlhf.apps.annotate.desk import Desk
from rlhf.apps.annotate.job import open_job
from rlhf.apps.annotate.ranking import Answer
from rlhf.apps.annotate.store import Store
from rlhf.config.paths import resource
from rlhf.data.jsonl import write_jsonl
from rlhf.runtime.manifest import MANIFEST
from tests.apps.annotate.worlds import collect_folder


def run(
    folder: Path,
    *,
    new_user: str | None = None,
    auditor: bool = False,
    export: bool = False,
    ask_password: Callable[[str], str] = lambda prompt: "long enough",
) -> list[str]:
    said: list[str] = []
    annotate(
        folder,
        new_user=new_user,
        auditor=auditor,
        export=export,
        to_label_studio=None,
        from_label_studio=None,
        overlap=1,
        port=None,
        ask_password=ask_password,
        say=said.append,
    )
    return said


def test_a_folder_with_a_space_in_its_name_can_be_copied_from_the_line(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    collect_folder(folder)
    with pytest.raises(ValueError) as error:
        run(folder)
    assert str(error.value) == f"nobody can sign in yet: rlhf annotate '{folder}' --add-user NAME"
    assert run(folder, new_user="ann") == [f"ann can sign in: rlhf annotate '{folder}'"]


def test_add_user(tmp_path: Path) -> None:
    collect_folder(tmp_path)
    assert run(tmp_path, new_user="ann") == [f"ann can sign in: rlhf annotate {tmp_path}"]
    run(tmp_path, new_user="zoe", auditor=True)
    database = open_job(tmp_path).database
    assert is_password(database, "ann", "long enough")
    assert is_auditor(database, "zoe") and not is_auditor(database, "ann")


def never(prompt: str) -> str:
    raise AssertionError(f"asked: {prompt}")


def test_a_name_that_cannot_be_one_is_refused_before_the_password_is_asked_for(
    tmp_path: Path,
) -> None:
    collect_folder(tmp_path)
    with pytest.raises(ValueError, match="'' cannot be a user name"):
        run(tmp_path, new_user="", ask_password=never)


def test_an_auditor_without_a_name(tmp_path: Path) -> None:
    collect_folder(tmp_path)
    with pytest.raises(ValueError, match="--auditor is of an account .*: add --add-user NAME"):
        run(tmp_path, auditor=True, export=True)


def test_export(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=2)
    with pytest.raises(ValueError, match="nothing has been ranked yet"):
        run(tmp_path, export=True)
    store = Store(job.database)
    work = store.claim("ann")
    assert work is not None
    store.answer("ann", work.key, Answer(ranks=(1, 1, 1, 1), label="helpful"))
    assert run(tmp_path, export=True) == [f"1 rankings -> {tmp_path / 'rankings.jsonl'}"]


def test_an_auditor_who_comes_later_withdraws_the_rankings(tmp_path: Path) -> None:
    job = collect_folder(tmp_path, tasks=1)
    store = Store(job.database)
    work = store.claim("ann")
    assert work is not None
    store.answer("ann", work.key, Answer(ranks=(1, 1, 1, 1), label="helpful"))
    job.keep_up(lambda: True)
    assert len(run(tmp_path, new_user="bob")) == 1 and (tmp_path / "rankings.jsonl").is_file()
    told = run(tmp_path, new_user="zoe", auditor=True)[1]
    assert told.startswith(f"{tmp_path / 'rankings.jsonl'} is rankings.jsonl.withdrawn now")
    assert not (tmp_path / "rankings.jsonl").exists()


class Served:
    """Stands for the page: something happens while it serves, until somebody presses Ctrl-C."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self.launch, self.block_thread = lambda desk, port: (self, "http://127.0.0.1:1"), happens


def serve(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    monkeypatch.setitem(sys.modules, "rlhf.apps.annotate.page", Served(happens))


def test_the_folder_is_moved_while_the_page_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "collect"
    folder.mkdir()
    collect_folder(folder)
    run(folder, new_user="ann")
    serve(monkeypatch, lambda: folder.rename(tmp_path / "aside"))
    monkeypatch.setattr(sys, "argv", ["rlhf", "annotate", str(folder)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1
    assert "aside/" in error and "start rlhf annotate again" in error
    assert not folder.exists()


def test_the_page_ends_with_what_it_has_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = collect_folder(tmp_path, tasks=1)
    run(tmp_path, new_user="ann")
    write_jsonl(tmp_path / "rankings.jsonl", [])
    with job.database.transaction() as connection:
        job.disown(connection, job.sources[0])
    serve(monkeypatch, lambda: None)
    said = run(tmp_path)
    path = tmp_path / "rankings.jsonl"
    assert f"{path} stays as it came from Label Studio: --export writes the page's over it" in said


def test_categories_are_named_by_the_run_s_own_taxonomy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run/rounds/1/collect"
    folder.mkdir(parents=True)
    collect_folder(folder)
    run(folder, new_user="ann")
    desks: list[Desk] = []
    monkeypatch.setattr(command, "Desk", lambda *args: desks.append(Desk(*args)) or desks[-1])
    serve(monkeypatch, lambda: None)
    run(folder)
    (tmp_path / "run/data").mkdir()
    shipped = resource("data_schemas/taxonomy.yaml").read_text(encoding="utf-8")
    own = shipped.replace("Everyday life", "Our everyday")
    (tmp_path / "run/data/taxonomy.yaml").write_text(own, encoding="utf-8")
    run(folder)  # of no run: the folder has no manifest
    (tmp_path / "run" / MANIFEST).write_text('{"stages": {}}')
    run(folder)
    names = [desk.taxonomy.find(("everyday_life",)).en for desk in desks]
    assert names == ["Everyday life", "Everyday life", "Our everyday"]


def test_nobody_can_sign_in(tmp_path: Path) -> None:
    collect_folder(tmp_path)
    with pytest.raises(ValueError, match="--add-user NAME"):
        run(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="gradio is installed")
def test_gradio_missing(tmp_path: Path) -> None:
    collect_folder(tmp_path)
    run(tmp_path, new_user="ann")
    with pytest.raises(ValueError, match=r"needs gradio: pip install 'baichuan-rlhf\[ui\]'"):
        run(tmp_path)
