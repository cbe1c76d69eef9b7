"""The reward model's plots, from the tables of margin_report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rlhf.evaluation.calibration import expected_accuracy, margin_histogram
from rlhf.evaluation.cells import Table
from rlhf.evaluation.drawing import BLUE, GREEN, INK, MUTED, ORANGE, SERIES, Sketch, shortened
from rlhf.evaluation.preference import PairRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = "osD^v"


def sketches(rm: dict[str, Any], pairs: Sequence[PairRow]) -> Iterator[Sketch]:
    """rm: margin_report.build(pairs)."""
    if rm["by_grade"]:
        note = "Whiskers: 95 % Wilson intervals. Grade 1: unsure, 5: significantly better."
        painter = partial(_by_grade, rm["by_grade"])
        yield Sketch("rm_by_grade", "rm", "Accuracy by grade", note, painter)
    note = (
        "Quantile bins of |margin|. Line: the accuracy that the margins claim, sigmoid(|margin|)."
    )
    painter = partial(_by_margin, rm["by_margin"])
    yield Sketch("rm_by_margin", "rm", "Accuracy by margin", note, painter)
    note = "On the diagonal the margins claim as much as they keep; below it, too much."
    if rm["temperature"]:
        note += " Half of the prompts; the temperature is fitted on the other half."
    yield Sketch("rm_reliability", "rm", "Reliability", note, partial(_reliability, rm))
    note = "Chosen minus rejected score. Left of zero the model disagrees with the annotator."
    painter = partial(_histogram, margin_histogram(pairs))
    yield Sketch("rm_margins", "rm", "Margins of held-out pairs", note, painter)
    if rm["best_of_n"]:
        note = (
            "The best of n answers by score, n from left to right; gains over one answer, in its "
            "standard deviations. Where the judge's line turns down, the score misleads."
        )
        painter = partial(_best_of_n, rm["best_of_n"])
        yield Sketch("rm_best_of_n", "rm", "Best of n", note, painter)


def comparisons(reports: Mapping[str, dict[str, Any]]) -> Iterator[Sketch]:
    """Several reward models in one plot. reports: of margin_report.build, by the model's name."""
    graded = {name: rm["by_grade"] for name, rm in reports.items() if rm["by_grade"]}
    if graded:
        note = "Whiskers: 95 % Wilson intervals. Grade 1: unsure, 5: significantly better."
        painter = partial(_grades_of_all, graded)
        yield Sketch("by_grade", "rm", "Accuracy by grade", note, painter)
    note = "On the diagonal the margins claim as much as they keep; below it, too much."
    painter = partial(_reliability_of_all, {n: rm["by_margin"] for n, rm in reports.items()})
    yield Sketch("reliability", "rm", "Reliability", note, painter)


def _grades_of_all(tables: Mapping[str, Table], axes: Axes) -> None:
    every = {row["grade"]: row for table in tables.values() for row in table}
    _report_by_grade([every[grade] for grade in sorted(every)], axes)
    for turn, (name, table) in enumerate(tables.items()):
        apart = 0.12 * (turn - (len(tables) - 1) / 2)  # or whiskers would hide each other
        places = [row["grade"] + apart for row in table]
        colour = SERIES[turn % len(SERIES)]
        _intervals(axes, places, table, shortened(name), MARKS[turn % len(MARKS)] + "-", colour)
    axes.set_xlabel("grade of the gap")
    axes.set_xticks(sorted(every))
    axes.set_xlim(min(every) - 0.4, max(every) + 0.4)
    _in_percent(axes)
    axes.set_ylim(bottom=axes.get_ylim()[0] - 12 * (len(tables) + 1))
    axes.legend(loc="lower right")


def _reliability_of_all(tables: Mapping[str, Table], axes: Axes) -> None:
    axes.plot([50, 100], [50, 100], color=MUTED, linewidth=1.2)
    for turn, (name, table) in enumerate(tables.items()):
        expected = [100 * row["expected"] for row in table]
        colour = SERIES[turn % len(SERIES)]
        _intervals(axes, expected, table, shortened(name), MARKS[turn % len(MARKS)], colour)
    axes.set_xlabel("expected accuracy (%)")
    _in_percent(axes)
    axes.legend(loc="upper left")


def _report_by_grade(table: Table, axes: Axes) -> None:
    axes.plot(
        [row["grade"] for row in table],
        [100 * row["baichuan2"] for row in table],
        "s--",
        color=MUTED,
        markersize=4,
        linewidth=1.2,
        label="Baichuan 2 report",
    )


def _by_grade(table: Table, axes: Axes) -> None:
    grades = [row["grade"] for row in table]
    _report_by_grade(table, axes)
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
    _points(axes, grades, table, "this run", marks="o-")
    axes.set_xlabel("grade of the gap")
    axes.set_xticks(grades)
    axes.set_xlim(min(grades) - 0.4, max(grades) + 0.4)
    _in_percent(axes)
    axes.set_ylim(bottom=axes.get_ylim()[0] - 25)  # room for the legend, which hides nothing there
    axes.legend(loc="lower right")


def _by_margin(table: Table, axes: Axes) -> None:
    sizes = [row["mean_margin"] for row in table]
    grid = [max(sizes) * step / 60 for step in range(64)]
    expected = [100 * expected_accuracy(size) for size in grid]
    axes.plot(grid, expected, color=MUTED, linewidth=1.2, label="expected")
    _points(axes, sizes, table, "this run")
    axes.set_xlabel("margin (mean of the bin)")
    _in_percent(axes)
    axes.legend()


def _points(axes: Axes, x: list[float], table: Table, label: str, marks: str = "o") -> None:
    """Accuracies with their intervals, and against noise-free labels where those are known."""
    if "oracle_accuracy" in table[0]:
        noise_free = [_percent(row["oracle_accuracy"]) for row in table]
        axes.plot(
            x, noise_free, "D", color=GREEN, markersize=4.5, label="against noise-free labels"
        )
    _intervals(axes, x, table, label, marks, BLUE)


def _intervals(
    axes: Axes, x: list[float], table: Table, label: str, marks: str, colour: str
) -> None:
    y = [100 * row["accuracy"] for row in table]
    below = [100 * (row["accuracy"] - row["ci_low"]) for row in table]
    above = [100 * (row["ci_high"] - row["accuracy"]) for row in table]
    axes.errorbar(
        x, y, [below, above], fmt=marks, color=colour, markersize=5, elinewidth=1.2, label=label
    )


def _in_percent(axes: Axes) -> None:
    """Called when all is drawn: from then on limits no longer follow what is drawn."""
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(top=102)


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


def _reliability(rm: dict[str, Any], axes: Axes) -> None:
    axes.plot([50, 100], [50, 100], color=MUTED, linewidth=1.2)
    fitted = rm["temperature"]
    before = fitted["before"] if fitted else rm["by_margin"]
    expected = [100 * row["expected"] for row in before]
    _intervals(axes, expected, before, "as scored", "o", BLUE)
    if fitted:
        expected = [100 * row["expected"] for row in fitted["after"]]
        label = f"temperature {fitted['value']:.2f}"
        _intervals(axes, expected, fitted["after"], label, "s", ORANGE)
    axes.set_xlabel("expected accuracy (%)")
    _in_percent(axes)
    axes.legend(loc="upper left")


def _histogram(table: Table, axes: Axes) -> None:
    left, width = [row["low"] for row in table], table[0]["high"] - table[0]["low"]
    colours = [BLUE if row["low"] + row["high"] > 0 else ORANGE for row in table]
    axes.bar(left, [row["pairs"] for row in table], width * 0.92, align="edge", color=colours)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("margin")
    axes.set_ylabel("pairs")
    axes.grid(axis="x", visible=False)


def _best_of_n(table: Table, axes: Axes) -> None:
    kl = [row["kl"] for row in table]
    for key, label, colour in (("score", "reward model", MUTED), ("quality", "judge", BLUE)):
        axes.plot(kl, [row[f"{key}_gain"] for row in table], "o-", color=colour, label=label)
    for row in table:
        place = (row["kl"], row["quality_gain"])
        axes.annotate(row["n"], place, (0, -11), textcoords="offset points", ha="center", size=7.5)
    axes.set_xlabel("KL = log n \u2212 (n \u2212 1) / n (nats)")
    axes.set_ylabel("gain (standard deviations)")
    axes.set_ylim(bottom=axes.get_ylim()[0] - 0.15)  # room for the first n
    axes.legend(loc="lower right")
