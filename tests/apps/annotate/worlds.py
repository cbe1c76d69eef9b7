"""A small collect folder to annotate, and a clock to turn."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rlhf.apps.annotate.job import Job, open_job
from rlhf.data.records import (
    Message,
    PromptRecord,
    Provenance,
    RankingTask,
    Response,
    write_jsonl,
)

SIZES = ("7b", "13b")
ANSWERS = (
    "Write one sentence a day about something you noticed. After two weeks read them back.\n\n"
    "What keeps people going is not talent but a fixed place and a fixed hour.",
    "好的。可以先从每天写一句话开始，写你看到的一件小事。\n坚持两周后再回头读一遍，你会发现自己已经有了素材。",
    "It depends.",
    "<img src=x onerror=\"document.title='pwned'\"> <b>Start</b> small & keep going.",
    "",
    "Read a page of somebody whose prose you like, aloud, before you begin.",
)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


def failure(code: int) -> sqlite3.OperationalError:
    """As SQLite raises it, with this code."""
    error = sqlite3.OperationalError(f"error {code}")
    error.sqlite_errorcode = code
    return error


def task(number: int, responses: int = 4, prefix: str = "t") -> RankingTask:
    """A task whose response texts name their place: "<place>: ..."."""
    name = f"{prefix}{number}"
    prompt = PromptRecord(
        id=name,
        messages=(
            Message(role="user", content="I want to write more."),
            Message(role="assistant", content="What holds you back?"),
            Message(
                role="user",
                content=f"Nothing in particular. How do I begin? (question {number})",
            ),
        ),
        category=("writing", "no_such_secondary", "diary_entry"),
        label="helpful" if number % 2 else None,
    )
    made = tuple(
        Response(
            id=f"{name}/{place}",
            text=ANSWERS[place % len(ANSWERS)],
            provenance=Provenance(
                family="baichuan", model=f"secret-{place}", size=SIZES[place % 2], stage="sft"
            ),
            token_ids=(place, 2),
        )
        for place in range(responses)
    )
    return RankingTask(id=name, prompt=prompt, responses=made)


def collect_folder(folder: Path, *, tasks: int = 4, held_out: int = 0, responses: int = 4) -> Job:
    """The job of a collect folder with this many tasks."""
    write_jsonl(folder / "tasks.jsonl", [task(number, responses) for number in range(tasks)])
    if held_out:
        records = [task(number, responses, prefix="e") for number in range(held_out)]
        write_jsonl(folder / "eval_tasks.jsonl", records)
    return open_job(folder)
