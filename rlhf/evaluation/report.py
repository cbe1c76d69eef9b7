"""The report of a run: report/index.html, report.json, PNG and CSV, from the run's files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.evaluation import capabilities, margin_report
from rlhf.evaluation.category_names import CategoryNames
from rlhf.evaluation.cells import Table
from rlhf.evaluation.folder import write_folder
from rlhf.evaluation.page import render
from rlhf.evaluation.plots import draw
from rlhf.evaluation.run_files import load
from rlhf.evaluation.summary import summarise


def write(run_dir: Path) -> dict[str, Any]:
    """Makes `run_dir`/report afresh and returns the contents of its report.json.

    Parts that the run does not have are None in report.json, named in its `missing`, and said to be
    missing on the page.

    Raises:
        ValueError: not a run directory, or a damaged file in it.
    """
    files = load(run_dir)
    report = summarise(files)
    plots = list(draw(files, report))
    page = render(run_dir, files, report, plots, CategoryNames.of_run(run_dir))
    write_folder(run_dir / "report", page, report, plots, tables(report))
    return report


def tables(report: dict[str, Any]) -> dict[str, Table]:
    """The main tables of a report by name; some may be empty."""
    ppo, dpo = report["ppo"] or {}, report["dpo"] or {}
    judges = {
        "sft": ppo.get("judge"),
        "sft_extra": ppo.get("judge_extra_sft"),
        "dpo": ppo.get("judge_dpo"),
        "sft (dpo judged)": dpo.get("judge"),
    }
    return {
        "stages": report["run"]["stages"],
        "responses": report["data"]["responses"],
        "pairs_by_origin": _origins(report["data"]["provenance"] or {}),
        **(margin_report.tables(report["rm"]) if report["rm"] else {}),
        "capabilities": capabilities.table(report["capabilities"]),
        "judge": [row for name, judge in judges.items() if judge for row in _flat(name, judge)],
    }


def _origins(provenance: dict[str, Any]) -> Table:
    """Pairs of each split by the size and stage of the chosen and of the rejected response."""
    return [
        {"split": split, "chosen": chosen, "rejected": rejected, "pairs": count}
        for split, origins in provenance.items()
        for chosen, row in origins.get("pairs", {}).items()
        for rejected, count in row.items()
    ]


def _flat(baseline: str, judge: dict[str, Any]) -> Table:
    """Verdicts against one baseline: all prompts, then each group."""
    groups = [("all", "", judge)]
    for key in ("by_label", "by_language", "by_category"):
        groups += [(key.removeprefix("by_"), row["name"], row) for row in judge[key]]
    counts = ("prompts", "win", "tie", "lose", "win_minus_lose", "ci_low", "ci_high")
    return [
        {"baseline": baseline, "group": group, "name": name, **{key: row[key] for key in counts}}
        for group, name, row in groups
    ]
