"""The best of n answers by the reward model, as another judge sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev

from rlhf.data.jsonl import Record, read_jsonl
from rlhf.evaluation.cells import Table, grouped
from rlhf.evaluation.statistics import mean_interval
from rlhf.ops.best_of_n import best_of_n, best_of_n_kl

FILE = Path("evaluate") / "best_of_n.jsonl"
"""Its rows, in a run's directory."""


class AnswerRow(Record):
    """A line of best_of_n.jsonl: one of a prompt's N answers.

    score: the reward model's. quality: that of `judge`; simulated: as in `JudgeRow`.
    """

    prompt_id: str
    text: str
    score: float
    quality: float
    judge: str
    simulated: bool = False


def read(run_dir: Path) -> list[AnswerRow]:
    """The rows of a run; none where they have not been sampled."""
    path = run_dir / FILE
    return list(read_jsonl(path, AnswerRow)) if path.is_file() else []


def curve(rows: Sequence[AnswerRow]) -> Table:
    """A row for n = 1, 2, 4, ... up to the fewest answers that a prompt has; empty without rows.

    kl: log n - (n - 1) / n, in nats. score, quality: of the answer chosen by score, the mean over
    prompts with Student's interval over them. Gains are over n = 1, in standard deviations of one
    answer, so that both have one scale.
    """
    prompts = list(grouped(rows, lambda row: row.prompt_id).values())
    if not prompts:
        return []
    spread = {key: pstdev(getattr(row, key) for row in rows) for key in ("score", "quality")}
    table: Table = []
    for n in _powers_of_two(min(map(len, prompts))):
        line: dict[str, float | int | None] = {
            "n": n,
            "kl": best_of_n_kl(n),
            "prompts": len(prompts),
        }
        for key in ("score", "quality"):
            values = [
                best_of_n([row.score for row in group], [getattr(row, key) for row in group], n)
                for group in prompts
            ]
            mean, low, high = (
                mean_interval(values) if len(values) > 1 else (fmean(values), None, None)
            )
            first = table[0][key] if table else mean
            line |= {key: mean, f"{key}_low": low, f"{key}_high": high}
            line[f"{key}_gain"] = (mean - first) / spread[key] if spread[key] else 0.0
        table.append(line)
    return table


def _powers_of_two(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length())]
