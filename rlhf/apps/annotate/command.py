"""`rlhf annotate`: accounts, the page, the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote

from rlhf.apps.annotate.accounts import add_user, check_name, count_users
from rlhf.apps.annotate.audit import Audit
from rlhf.apps.annotate.desk import Desk
from rlhf.apps.annotate.job import WITHDRAWN, Job, open_job
from rlhf.apps.annotate.label_studio import interface, read_answers, write_tasks
from rlhf.apps.annotate.notice import noted
from rlhf.apps.annotate.store import Store
from rlhf.apps.local import free_port
from rlhf.config.paths import resource
from rlhf.data.taxonomy import FILE, Taxonomy
from rlhf.runtime.lineage import run_of
from rlhf.runtime.run_dir import RunDir


def annotate(
    tasks: Path,
    *,
    new_user: str | None,
    auditor: bool,
    export: bool,
    to_label_studio: Path | None,
    from_label_studio: Path | None,
    overlap: int,
    port: int | None,
    ask_password: Callable[[str], str],
    say: Callable[[str], None],
) -> None:
    """Make an account, export, trade with Label Studio, or serve the page until interrupted.

    Args:
        tasks: a collect folder or a tasks file. ask_password: prompt -> what was typed.

    Raises:
        ValueError: no tasks, no account or a name that cannot be one, an auditor of no name,
            nothing to export, or the extra `ui` is missing.
    """
    if auditor and new_user is None:
        raise ValueError("--auditor is of an account that is made: add --add-user NAME")
    job = open_job(tasks)
    if new_user is not None:
        check_name(new_user)  # before its password is asked for
        add_user(job.database, new_user, ask_password(f"Password for {new_user}"), auditor=auditor)
        say(f"{new_user} can sign in: rlhf annotate {quote(str(tasks))}")
        for path in job.withdraw() if Audit(job.database).waits() else ():
            say(f"{path} is {path.name}{WITHDRAWN} now: batches wait for their verdict")
    elif to_label_studio is not None:
        count = write_tasks(job, to_label_studio)
        say(f"{count} tasks -> {to_label_studio}; interface -> {interface(to_label_studio)}")
    elif export or from_label_studio is not None:
        written = read_answers(job, from_label_studio) if from_label_studio else job.export()
        if not written:
            raise ValueError(f"{tasks}: nothing has been ranked yet, so there is nothing to export")
        _report(written, say)
        for path in written.keys() & job.used():
            say(f"{path}: at its next call the run trains on it again, and what comes after")
    else:
        _serve(job, tasks, overlap, port, say)


def _taxonomy_of(folder: Path) -> Path:
    """The copy that a run keeps of its own, or the shipped one."""
    run = run_of(folder)
    kept = RunDir(run).data / FILE if run else None
    return kept if kept and kept.is_file() else resource("data_schemas/taxonomy.yaml")


def _serve(
    job: Job, tasks: Path, overlap: int, port: int | None, say: Callable[[str], None]
) -> None:
    if count_users(job.database) == 0:
        command = f"rlhf annotate {quote(str(tasks))} --add-user NAME"
        raise ValueError(f"nobody can sign in yet: {command}")
    try:
        from rlhf.apps.annotate.page import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(
            "the annotation page needs gradio: pip install 'baichuan-rlhf[ui]'"
        ) from None
    taxonomy = Taxonomy.load(_taxonomy_of(job.folder))
    desk = Desk(job, Store(job.database, overlap=overlap), Audit(job.database), taxonomy)
    if port == 0:
        port = free_port("127.0.0.1")
    try:
        application, address = launch(desk, port)
    except OSError:
        taken = f"port {port} is" if port else "all ports from 7860 to 7959 are"
        raise ValueError(f"{taken} taken on 127.0.0.1: give another with --port") from None
    say(f"{address} waits for annotators; stop with Ctrl-C, every answer given is on disk")
    with noted(job.folder, address):
        application.block_thread()
    _report(desk.update_export(), say)
    used = job.used()
    for path in used:
        say(f"{path} stays as its run has used it: --export writes it anew")
    for path in job.foreign():
        if path not in used:
            say(f"{path} stays as it came from Label Studio: --export writes the page's over it")
    progress = desk.store.progress()
    say(f"{progress.settled} of {progress.tasks} tasks settled")


def _report(written: dict[Path, int], say: Callable[[str], None]) -> None:
    for path, count in written.items():
        say(f"{count} rankings -> {path}")
