"""The report of a reward model alone, from its pairs.jsonl (and best_of_n.jsonl) alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.data.jsonl import read_jsonl
from rlhf.evaluation import best_of_n, margin_report, page, rm_plots
from rlhf.evaluation.folder import write_folder
from rlhf.evaluation.preference import PairRow


def write(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Makes `report/` beside the pairs.jsonl of a run or of a reward model.

    A run's own report/ is of all its stages and stays as it is. Its best_of_n.jsonl, where there is
    one, is of its reward model.

    Returns:
        The folder, and the tables of margin_report.build.

    Raises:
        ValueError: no pairs.jsonl, or none that can be read.
    """
    file = pairs_file(directory)
    rows = list(read_jsonl(file, PairRow))
    rm = margin_report.build(rows, best_of_n.curve(best_of_n.read(directory)))
    plots = [sketch.drawn() for sketch in rm_plots.sketches(rm, rows)]
    folder = file.parent / "report"
    html = page.render_rm(str(directory), rm, plots, file)
    write_folder(folder, html, {"rm": rm}, plots, margin_report.tables(rm))
    return folder, rm


def pairs_file(directory: Path) -> Path:
    """The pairs.jsonl of a reward model's directory, or of a run's.

    Raises:
        ValueError: there is none, or it is empty.
    """
    for file in (directory / "pairs.jsonl", directory / "rm" / "pairs.jsonl"):
        if file.is_file() and file.stat().st_size:
            return file
    raise ValueError(
        f"{directory}: no held-out pairs in pairs.jsonl or rm/pairs.jsonl; name a run, such as "
        "runs/tiny, or a reward model that `rlhf rm` has finished"
    )
