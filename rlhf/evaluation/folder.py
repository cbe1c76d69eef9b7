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


def write_folder(
    directory: Path,
    page: str,
    report: Mapping[str, Any],
    plots: Sequence[Plot],
    tables: Mapping[str, Table],
) -> None:
    """Makes `directory` afresh: index.html, report.json, a PNG a plot, a CSV a table not empty."""
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
