"""Texts that a run leaves behind: what was asked, what was answered, and what was thought of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.apps.dashboard.runs import Row, Run
from rlhf.runtime.metrics import SAMPLES

PAGE = 6
"""Prompts that are shown at once."""


@dataclass(frozen=True)
class Answer:
    """An answer, and short remarks on it: pairs of a name and a value."""

    text: str
    title: str = ""
    remarks: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Sample:
    """A prompt's last turn with its answers. remarks: as an answer's."""

    prompt: str
    answers: list[Answer]
    remarks: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Source:
    """A file with samples. kind: of KINDS. key: of the stage that writes it."""

    kind: str
    key: str
    file: str


KINDS = {
    "ppo": "answers as they come, newest first",
    "judged": "answers before and after",
    "win": "before and after, where PPO made it better",
    "lose": "before and after, where PPO made it worse",
    "ranked": "held-out responses, ranked",
}


def sources(run: Run) -> list[Source]:
    """Files that are there, of the last round first; what comes while a stage runs stands first."""
    found = []
    for _, before in reversed(run.rounds()):
        found += [
            Source("ppo", f"{before}ppo", SAMPLES),
            *(Source(kind, f"{before}ppo", "judge.jsonl") for kind in ("judged", "win", "lose")),
            Source("ranked", f"{before}collect", "eval_rankings.jsonl"),
        ]
    return [one for one in found if (run.root / one.key / one.file).is_file()]


def page(run: Run, source: Source, number: int) -> tuple[list[Sample], int]:
    """The samples of a page, and how many pages there are; pages count from 1."""
    rows = run.rows(source.key, source.file)
    if source.kind == "ppo":
        rows = rows[::-1]
    elif source.kind in ("win", "lose"):
        rows = [row for row in rows if row.get("verdict") == source.kind]
    pages = max(1, -(-len(rows) // PAGE))
    number = min(max(1, number), pages)
    read = {"ppo": _sampled, "ranked": _ranked}.get(source.kind, _judged)
    return [read(row) for row in rows[(number - 1) * PAGE : number * PAGE]], pages


def _sampled(row: Row) -> Sample:
    remarks = [("iteration", row.get("step", 0) + 1), ("score", row.get("score"))]
    remarks += [] if row.get("ended", True) else [("cut off", "")]
    return Sample(_text(row, "prompt"), [Answer(_text(row, "response"))], tuple(remarks))


def _judged(row: Row) -> Sample:
    answers = [
        Answer(_text(row, side), side, (("quality", row.get(f"{side}_quality")),))
        for side in ("before", "after")
    ]
    return Sample(_text(row, "prompt"), answers, (("verdict", row.get("verdict")),))


def _ranked(row: Row) -> Sample:
    responses = row.get("responses") or []
    ranks = row.get("ranks") or [None] * len(responses)
    order = sorted(range(len(responses)), key=lambda place: ranks[place] or 0)
    answers = [_response(responses[place], ranks[place]) for place in order]
    turns: Sequence[Row] = (row.get("prompt") or {}).get("messages") or [{}]
    return Sample(_text(turns[-1], "content"), answers)


def _response(response: Row, rank: int | None) -> Answer:
    made = response.get("provenance") or {}
    source = " ".join(str(made[part]) for part in ("size", "stage") if part in made)
    return Answer(_text(response, "text"), source, (("rank", rank),))


def _text(row: Row, key: str) -> str:
    return str(row.get(key) or "")
