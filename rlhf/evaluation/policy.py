"""Is the trained policy better than its baseline? Verdicts on the same held-out prompts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import isfinite
from typing import Any, Literal

from rlhf.data.jsonl import Record
from rlhf.data.records import PromptRecord
from rlhf.evaluation.statistics import net_win_interval

Verdict = Literal["win", "tie", "lose"]

# Two answers are matched when the longer has at most this many times the characters.
MATCHED_LENGTH = 1.25


class JudgeRow(Record):
    """A line of judge.jsonl. `before`: the baseline's answer; `after`: the policy's.

    verdict: win when the policy's answer is the better one.
    judge: who gave the qualities; simulated: a program, or a model that stands in for people
        or learnt from a program.
    """

    prompt_id: str
    prompt: str
    before: str
    after: str
    verdict: Verdict
    category: tuple[str, ...] = ()
    label: Literal["helpful", "harmless"] | None = None
    language: str | None = None
    before_quality: float
    after_quality: float
    judge: str
    simulated: bool = False


def verdict(before: float, after: float, tolerance: float = 0.0) -> Verdict:
    """`after` against `before`; a difference of at most `tolerance` is a tie."""
    if abs(after - before) <= tolerance:
        return "tie"
    return "win" if after > before else "lose"


def compare_rows(
    prompts: Sequence[PromptRecord],
    before: Sequence[str],
    after: Sequence[str],
    before_quality: Sequence[float],
    after_quality: Sequence[float],
    *,
    judge: str,
    simulated: bool = False,
    tolerance: float = 0.0,
) -> Iterator[JudgeRow]:
    """One row a prompt. All sequences are [N], in the order of the prompts.

    The same answer twice is a tie: in bfloat16 a model's two scores of it may differ in last bits,
    by what it was read beside.

    Raises:
        ValueError: a quality that is not finite.
    """
    for prompt, old, new, old_quality, new_quality in zip(
        prompts, before, after, before_quality, after_quality, strict=True
    ):
        if not (isfinite(old_quality) and isfinite(new_quality)):
            raise ValueError(
                f"prompt {prompt.id}: judge {judge} gives {old_quality} and {new_quality}; "
                "use a judge whose scores are finite"
            )
        yield JudgeRow(
            id=prompt.id,
            prompt_id=prompt.id,
            prompt=prompt.text,
            before=old,
            after=new,
            verdict="tie" if old == new else verdict(old_quality, new_quality, tolerance),
            category=prompt.category,
            label=prompt.label,
            language=prompt.language,
            before_quality=old_quality,
            after_quality=new_quality,
            judge=judge,
            simulated=simulated,
        )


def summarise(rows: Sequence[JudgeRow]) -> dict[str, Any]:
    """Counts and win - lose, over all, by kind of prompt, and where the answers are of like length.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no verdicts: no held-out prompt was judged")
    return {
        "name": rows[0].judge,
        **tally(rows),
        "simulated": any(row.simulated for row in rows),
        "by_label": _by(rows, lambda row: row.label),
        "by_language": _by(rows, lambda row: row.language),
        "by_category": _by(rows, lambda row: row.category[0] if row.category else None),
        "length": _length(rows),
    }


def tally(rows: Sequence[JudgeRow]) -> dict[str, float | int | None]:
    """Counts, and (win - lose) / prompts with its 95 % interval, None without rows."""
    return count([row.verdict for row in rows])


def count(verdicts: Sequence[Verdict]) -> dict[str, float | int | None]:
    """As `tally`, of bare verdicts."""
    counts = Counter(verdicts)
    win, tie, lose = counts["win"], counts["tie"], counts["lose"]
    low, high = net_win_interval(win, tie, lose) if verdicts else (None, None)
    return {
        "prompts": len(verdicts),
        "win": win,
        "tie": tie,
        "lose": lose,
        "win_minus_lose": (win - lose) / len(verdicts) if verdicts else None,
        "ci_low": low,
        "ci_high": high,
    }


def by_level(rows: Sequence[JudgeRow]) -> list[dict[str, Any]]:
    """A tally for every category of every taxonomy level, each with its `level` from 1."""
    deepest = max((len(row.category) for row in rows), default=0)
    return [
        {"level": level, **entry}
        for level in range(1, deepest + 1)
        for entry in _by(rows, partial(_path, level=level))
    ]


def _path(row: JudgeRow, level: int) -> str | None:
    return " / ".join(row.category[:level]) if len(row.category) >= level else None


def samples(rows: Sequence[JudgeRow], count: int) -> list[JudgeRow]:
    """The first `count` rows by prompt id, at least one of them labelled harmless if any is.

    A rule fixed beforehand, so that nobody can pick the prettiest answers.
    """
    ordered = sorted(rows, key=lambda row: row.prompt_id)
    first, rest = ordered[:count], ordered[count:]
    if not any(row.label == "harmless" for row in first):
        harmless = next((row for row in rest if row.label == "harmless"), None)
        if harmless is not None:
            first = [*first[:-1], harmless]
    return first


def _by(rows: Sequence[JudgeRow], key: Callable[[JudgeRow], str | None]) -> list[dict[str, Any]]:
    groups: dict[str, list[JudgeRow]] = defaultdict(list)
    for row in rows:
        if (name := key(row)) is not None:
            groups[name].append(row)
    return [{"name": name, **tally(groups[name])} for name in sorted(groups)]


def _length(rows: Sequence[JudgeRow]) -> dict[str, Any]:
    """Mean characters of the answers, and the verdicts where neither answer is much longer."""
    sizes = [sorted((len(row.before), len(row.after))) for row in rows]
    matched = [
        row
        for row, (shorter, longer) in zip(rows, sizes, strict=True)
        if longer <= MATCHED_LENGTH * shorter
    ]
    return {
        "before": sum(len(row.before) for row in rows) / len(rows),
        "after": sum(len(row.after) for row in rows) / len(rows),
        "matched": tally(matched),
    }
