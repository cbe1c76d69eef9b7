"""The report of a run: report/index.html, report.json, PNG and CSV, from the run's files alone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from rlhf.evaluation import margin_report
from rlhf.evaluation.cells import Table
from rlhf.evaluation.page import render
from rlhf.evaluation.plots import draw
from rlhf.evaluation.run_files import RunFiles, load
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
    unfinished = run_dir / "report.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _fill(unfinished, files, report)
    shutil.rmtree(run_dir / "report", ignore_errors=True)
    unfinished.rename(run_dir / "report")
    return report


def _fill(directory: Path, files: RunFiles, report: dict[str, Any]) -> None:
    plots = list(draw(files, report))
    for plot in plots:
        (directory / f"{plot.name}.png").write_bytes(plot.png)
    for name, table in tables(report).items():
        _write_csv(directory / f"{name}.csv", table)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    (directory / "index.html").write_text(render(files, report, plots), encoding="utf-8")


def tables(report: dict[str, Any]) -> dict[str, Table]:
    """The main tables of a report by name, empty ones left out."""
    ppo = report["ppo"] or {}
    judges = {"sft": ppo.get("judge"), "sft_extra": ppo.get("judge_extra_sft")}
    found = {
        "stages": report["run"]["stages"],
        "responses": report["data"]["responses"],
        **(margin_report.tables(report["rm"]) if report["rm"] else {}),
        "judge": [row for name, judge in judges.items() if judge for row in _flat(name, judge)],
    }
    return {name: table for name, table in found.items() if table}


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


def _write_csv(path: Path, table: Table) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
