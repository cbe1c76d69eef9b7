"""Several reward models side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.jsonl import read_jsonl
from rlhf.evaluation import margin_report
from rlhf.evaluation.cells import Table, credit
from rlhf.evaluation.folder import check_no_file, write_csv, write_json
from rlhf.evaluation.page import NONE, number, points, render_comparison, signed
from rlhf.evaluation.preference import PairRow
from rlhf.evaluation.rm_plots import comparisons
from rlhf.evaluation.rm_report import pairs_file
from rlhf.evaluation.statistics import clustered_interval

GRADES = tuple(margin_report.BAICHUAN2_ACCURACY)


@dataclass(frozen=True)
class Comparison:
    """A row a reward model. same_pairs: all were tested on the same held-out pairs. reports: of
    margin_report.build, by the model's name."""

    table: Table
    same_pairs: bool
    reports: dict[str, dict[str, Any]]


def compare(directories: Sequence[Path]) -> Comparison:
    """Reads the pairs.jsonl of each run or reward model.

    `difference` is the accuracy less that of the first model, pair by pair, with an interval for
    which prompts are independent; None for the first, and where the pairs are not the same.

    Raises:
        ValueError: one of them has none.
    """
    models = {str(path): list(read_jsonl(pairs_file(path), PairRow)) for path in directories}
    same = len({frozenset(row.id for row in rows) for rows in models.values()}) == 1
    reports = {name: margin_report.build(rows) for name, rows in models.items()}
    first = {row.id: credit(row.margin) for row in next(iter(models.values()))} if same else {}
    table: Table = []
    for name, rows in models.items():
        row = {"model": name, **_row(reports[name])}
        table.append(row | _difference(rows, first if table else {}))
    return Comparison(table, same, reports)


def write(comparison: Comparison, folder: Path) -> None:
    """comparison.csv, comparison.json, index.html and its plots, into `folder`.

    Raises ValueError where a file stands there.
    """
    check_no_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "comparison.csv", comparison.table)
    content = {"same_pairs": comparison.same_pairs, "models": comparison.table}
    write_json(folder / "comparison.json", content)
    plots = [sketch.drawn() for sketch in comparisons(comparison.reports)]
    for plot in plots:
        (folder / f"{plot.name}.png").write_bytes(plot.png)
    page = render_comparison(
        [row["model"] for row in comparison.table],
        lines(comparison.table),
        plots,
        same_pairs=comparison.same_pairs,
        simulated=any(rm["simulated"] for rm in comparison.reports.values()),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def lines(table: Table, to: str = "to") -> list[list[str]]:
    """For the eye: a line a measure, its name and then a cell a model. Measures that no model has
    are left out. to: the word between the ends of an interval."""
    measures: list[tuple[str, str, Callable[[Any], str]]] = [
        ("held-out pairs", "pairs", number),
        ("accuracy, %", "accuracy", _in_percent),
        ("less the first, points", "difference", points),
        *((f"grade {grade}, %", f"grade_{grade}", _in_percent) for grade in GRADES),
        ("noise-free, %", "noise_free", _in_percent),
        ("lengths balanced, %", "length_balanced", _in_percent),
        ("Kendall's tau", "tau", signed),
        ("calibration error", "ece", number),
        ("temperature", "temperature", number),
        ("correlation with length", "length_correlation", signed),
    ]
    return [
        [title, *(_text(row, key, form, to) for row in table)]
        for title, key, form in measures
        if any(row[key] is not None for row in table)
    ]


def _in_percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _text(row: dict[str, Any], key: str, form: Callable[[Any], str], to: str) -> str:
    if row[key] is None:
        return NONE
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    interval = "" if low is None or high is None else f" ({form(low)} {to} {form(high)})"
    return form(row[key]) + interval


def _row(rm: dict[str, Any]) -> dict[str, Any]:
    grades = {row["grade"]: row for row in rm["by_grade"]}
    row = {"pairs": rm["pairs"], **_with_interval("accuracy", rm, "accuracy")}
    for grade in GRADES:
        row |= _with_interval(f"grade_{grade}", grades.get(grade, {}), "accuracy")
    return {
        **row,
        "noise_free": rm.get("oracle_accuracy"),
        "length_balanced": rm["length_balanced_accuracy"],
        **_with_interval("tau", rm["kendall"], "tau"),
        "ece": rm["ece"],
        "temperature": rm["temperature"]["value"] if rm["temperature"] else None,
        "length_correlation": rm["length_correlation"],
    }


def _difference(rows: Sequence[PairRow], first: Mapping[str, float]) -> dict[str, float | None]:
    names = ("difference", "difference_low", "difference_high")
    if not first:
        return dict.fromkeys(names)
    gaps = [credit(row.margin) - first[row.id] for row in rows]
    found = clustered_interval(gaps, [row.prompt_id for row in rows])
    return dict(zip(names, found, strict=True))


def _with_interval(name: str, found: dict[str, Any], key: str) -> dict[str, Any]:
    values = {name: key, f"{name}_low": "ci_low", f"{name}_high": "ci_high"}
    return {column: found.get(source) for column, source in values.items()}
