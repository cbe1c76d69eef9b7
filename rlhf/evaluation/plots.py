"""What the report draws: one small plot a question, from the numbers of the run's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import TYPE_CHECKING, Any

from rlhf.evaluation.drawing import GRID, INK, MUTED, PAPER, SERIES, render
from rlhf.evaluation.margin_report import expected_accuracy, margin_histogram
from rlhf.evaluation.run_files import Metrics, RunFiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE = SERIES
SMOOTHING = 20  # the bold line is a running mean over this fraction of the curve: 1 / SMOOTHING

Painter = Callable[["Axes"], None]


@dataclass(frozen=True)
class Plot:
    """A drawn plot. name: of its file; section: where in the page; note: how to read it."""

    name: str
    section: str
    note: str
    png: bytes
    svg: str


def draw(files: RunFiles, report: dict[str, Any]) -> Iterator[Plot]:
    """Every plot that the run has numbers for."""
    for name, section, title, note, painter in _plots(files, report):
        png, svg = render(name, title, painter)
        yield Plot(name, section, note, png, svg)


def _plots(files: RunFiles, report: dict[str, Any]) -> Iterator[tuple[str, str, str, str, Painter]]:
    sft = {name: entry.metrics for name, entry in files.sft.items() if entry.metrics}
    if sft:
        note = "Thin: training loss, running mean in bold. Dots: held-out loss."
        yield "sft_loss", "sft", "Loss per token (nats)", note, partial(_losses, sft)
    if rm := report["rm"]:
        yield from _rm_plots(rm, files)
    rounds = {f"round {entry.number}": entry.rm_metrics for entry in files.rounds}
    if any(_series(rows, "loss")[0] for rows in rounds.values()):
        note = (
            "Thin: training loss, running mean in bold. Dots: held-out loss. Dashed: chance, ln 2."
        )
        yield "rm_loss", "rm", "Ranking loss", note, partial(_ranking_losses, rounds)
    rounds = {f"round {entry.number}": entry.ppo_metrics for entry in files.rounds}
    for key, title, note in PPO_CURVES:
        if any(_series(rows, key)[0] for rows in rounds.values()):
            painter = partial(_curves, rounds, key, "PPO iteration")
            yield f"ppo_{key}", "ppo", title, note, painter
    if report["ppo"] and report["ppo"]["judge"]:
        note = "Share of held-out prompts on which the answer after PPO is better, equal, worse."
        yield (
            "judge",
            "ppo",
            "Verdicts on held-out prompts",
            note,
            partial(_verdicts, report["ppo"]),
        )


PPO_CURVES = (
    ("score", "Reward model score", "Mean over the iteration's responses, before normalisation."),
    ("kl", "KL to the reference (nats a response)", "Summed k3 per response, mean over responses."),
    ("response_length", "Response length (tokens)", "Mean over the iteration's responses."),
    ("entropy", "Policy entropy (nats a token)", "A fall to zero would mean a collapsed policy."),
    ("eos_rate", "Finished responses", "Share of responses that end by themselves."),
)


def _rm_plots(rm: dict[str, Any], files: RunFiles) -> Iterator[tuple[str, str, str, str, Painter]]:
    if rm["by_grade"]:
        note = "Whiskers: 95 % Wilson intervals. Grade 1: unsure, 5: significantly better."
        yield "rm_by_grade", "rm", "Accuracy by grade", note, partial(_by_grade, rm["by_grade"])
    note = (
        "Quantile bins of |margin|. Line: the accuracy that the margins claim, sigmoid(|margin|)."
    )
    painter = partial(_by_margin, rm["by_margin"])
    yield "rm_by_margin", "rm", "Accuracy by margin", note, painter
    note = "On the diagonal the margins claim as much as they keep; below it, too much."
    painter = partial(_reliability, rm["by_margin"])
    yield "rm_reliability", "rm", "Reliability", note, painter
    note = "Chosen minus rejected score. Left of zero the model disagrees with the annotator."
    painter = partial(_histogram, margin_histogram(files.last.pairs))
    yield "rm_margins", "rm", "Margins of held-out pairs", note, painter


def _series(rows: Metrics, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that have the key."""
    found = [(row["step"], row[key]) for row in rows if key in row]
    return [step for step, _ in found], [value for _, value in found]


def _running_mean(values: Sequence[float]) -> list[float]:
    width = max(1, len(values) // SMOOTHING)
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _losses(groups: dict[str, Metrics], axes: Axes) -> None:
    _curves(groups, "loss", "optimiser step", axes)
    for (_, rows), colour in zip(groups.items(), SERIES * len(groups), strict=False):
        steps, values = _series(rows, "eval_loss")
        axes.plot(steps, values, "o-", color=colour, markersize=4, linewidth=0.8)


def _ranking_losses(rounds: dict[str, Metrics], axes: Axes) -> None:
    axes.axhline(log(2), color=MUTED, linewidth=1.2, linestyle="--")
    _losses(rounds, axes)


def _curves(groups: dict[str, Metrics], key: str, label: str, axes: Axes) -> None:
    for (name, rows), colour in zip(groups.items(), SERIES * len(groups), strict=False):
        steps, values = _series(rows, key)
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.4)
        axes.plot(steps, _running_mean(values), color=colour, label=name)
    axes.set_xlabel(label)
    if len(groups) > 1:
        axes.legend()


def _by_grade(table: list[dict[str, Any]], axes: Axes) -> None:
    grades = [row["grade"] for row in table]
    axes.plot(
        grades,
        [100 * row["baichuan2"] for row in table],
        "s--",
        color=MUTED,
        markersize=4,
        linewidth=1.2,
        label="Baichuan 2 report",
    )
    if "annotator_ceiling" in table[0]:
        axes.plot(
            grades,
            [_percent(row["annotator_ceiling"]) for row in table],
            "_",
            color=ORANGE,
            markersize=16,
            markeredgewidth=2,
            label="annotator's ceiling",
        )
    _points(axes, grades, table, "grade of the gap", marks="o-")
    axes.set_xticks(grades)
    axes.set_xlim(min(grades) - 0.4, max(grades) + 0.4)
    axes.set_ylim(bottom=axes.get_ylim()[0] - 25)  # room for the legend, which hides nothing there
    axes.legend(loc="lower right")


def _by_margin(table: list[dict[str, Any]], axes: Axes) -> None:
    sizes = [row["mean_margin"] for row in table]
    grid = [max(sizes) * step / 60 for step in range(64)]
    expected = [100 * expected_accuracy(size) for size in grid]
    axes.plot(grid, expected, color=MUTED, linewidth=1.2, label="expected")
    _points(axes, sizes, table, "margin (mean of the bin)")
    axes.legend()


def _points(
    axes: Axes, x: list[float], table: list[dict[str, Any]], label: str, marks: str = "o"
) -> None:
    """Accuracies with their intervals, and against noise-free labels where those are known."""
    if "oracle_accuracy" in table[0]:
        noise_free = [_percent(row["oracle_accuracy"]) for row in table]
        axes.plot(
            x, noise_free, "D", color=GREEN, markersize=4.5, label="against noise-free labels"
        )
    y = [100 * row["accuracy"] for row in table]
    below = [100 * (row["accuracy"] - row["ci_low"]) for row in table]
    above = [100 * (row["ci_high"] - row["accuracy"]) for row in table]
    axes.errorbar(
        x, y, [below, above], fmt=marks, color=BLUE, markersize=5, elinewidth=1.2, label="this run"
    )
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(top=102)


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


def _reliability(table: list[dict[str, Any]], axes: Axes) -> None:
    axes.plot([50, 100], [50, 100], color=MUTED, linewidth=1.2)
    _points(axes, [100 * row["expected"] for row in table], table, "expected accuracy (%)")


def _histogram(table: list[dict[str, Any]], axes: Axes) -> None:
    left, width = [row["low"] for row in table], table[0]["high"] - table[0]["low"]
    colours = [BLUE if row["low"] + row["high"] > 0 else ORANGE for row in table]
    axes.bar(left, [row["pairs"] for row in table], width * 0.92, align="edge", color=colours)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("margin")
    axes.set_ylabel("pairs")
    axes.grid(axis="x", visible=False)


def _verdicts(ppo: dict[str, Any], axes: Axes) -> None:
    bars = {
        "against SFT": ppo["judge"],
        "against SFT with as\nmuch extra compute": ppo["judge_extra_sft"],
    }
    bars = {name: judge for name, judge in bars.items() if judge}
    for position, judge in enumerate(bars.values()):
        start = 0.0
        for verdict, colour in (("win", BLUE), ("tie", GRID), ("lose", ORANGE)):
            share = 100 * judge[verdict] / judge["prompts"]
            axes.barh(position, share, 0.5, left=start, color=colour)
            if share > 6:
                text = INK if verdict == "tie" else PAPER
                axes.text(
                    start + share / 2,
                    position,
                    f"{verdict}\n{judge[verdict]}",
                    color=text,
                    ha="center",
                    va="center",
                    fontsize=8.5,
                )
            start += share
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlabel("prompts (%)")
    axes.grid(visible=False)
