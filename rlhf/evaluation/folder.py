"""A report's folder: either whole or the one before."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.evaluation.cells import Table
from rlhf.evaluation.drawing import Plot

OURS = {".html", ".json", ".png", ".csv"}
"""Suffixes of what a report's folder holds."""


def check_no_file(directory: Path) -> None:
    """Raises ValueError where a file stands in a folder's place."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: a file, and the report is a folder; name another")


def check_folder(directory: Path) -> None:
    """Raises ValueError unless a report may be written here: where nothing is, or an earlier one,
    which is replaced."""
    if not directory.exists():
        return
    check_no_file(directory)
    inside = sorted(path for path in directory.iterdir() if path.name != ".DS_Store")
    strange = [path for path in inside if path.is_dir() or path.suffix not in OURS]
    if inside and (strange or not (directory / "report.json").is_file()):
        found = (strange or inside)[0].name
        raise ValueError(
            f"{directory}: holds {found}, which is of no report and would be deleted; move it, or "
            "name another folder"
        )


def write_folder(
    directory: Path,
    page: str,
    report: Mapping[str, Any],
    plots: Sequence[Plot],
    tables: Mapping[str, Table],
) -> None:
    """Makes `directory` afresh: index.html, report.json, a PNG a plot, a CSV a table not empty.

    Raises ValueError where it holds anything else.
    """
    directory = directory.absolute()
    check_folder(directory)
    unfinished = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for plot in plots:
        (unfinished / f"{plot.name}.png").write_bytes(plot.png)
    for name, table in tables.items():
        if table:
            write_csv(unfinished / f"{name}.csv", table)
    write_json(unfinished / "report.json", report)
    (unfinished / "index.html").write_text(page, encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def write_csv(path: Path, table: Table) -> None:
    """table: at least one row; the first row's keys are the columns."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
