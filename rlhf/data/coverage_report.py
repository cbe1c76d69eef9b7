"""Coverage of a taxonomy written out: tables, JSON, CSV, and a picture of all three levels."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.data.taxonomy import LEVELS, Coverage, Taxonomy
from rlhf.runtime.files import write_text
from rlhf.runtime.fonts import plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

NAMES = ("primary", "secondary", "tertiary")
COLOURS = ("#2b6a9b", "#c4752a", "#46896a", "#8565ab", "#a3485c", "#6f7a2e")
INK, MUTED = "#20262e", "#66707c"
WIDTH, INCHES_A_ROW = 9.5, 0.235
MARGIN = 0.24 / WIDTH


def tables(coverage: Coverage, taxonomy: Taxonomy) -> list[Table]:
    """For the terminal: a row a level, then a row a secondary category with its empty ones."""
    from rich.box import SIMPLE
    from rich.table import Column, Table

    def right(*names: str) -> list[Column]:
        return [Column(name, justify="right") for name in names]

    caption = f"prompts without a category: {coverage.untagged:,}"
    for path, count in coverage.unknown.items():
        caption += f"\nnot in the taxonomy: {'/'.join(path)}: {count:,}"
    levels = Table("level", *right("categories", "empty", "prompts", "balance"), caption=caption)
    levels.caption_justify = "left"
    for level, name in enumerate(NAMES, start=1):
        numbers = len(coverage.counts[level - 1]), len(coverage.gaps(level)), coverage.tagged(level)
        levels.add_row(name, *(f"{n:,}" for n in numbers), f"{coverage.balance(level):.2f}")
    category, without = (Column(name, overflow="fold") for name in ("category", "empty"))
    groups = Table(category, *right("prompts"), without, box=SIMPLE)
    gaps = coverage.gaps(LEVELS)
    for primary, count in coverage.counts[0].items():
        groups.add_section()
        groups.add_row(taxonomy.find(primary).en, f"{count:,}", style="bold")
        for path in (path for path in coverage.counts[1] if path[:1] == primary):
            empty = [gap[-1] for gap in gaps if gap[:2] == path]
            inside = sum(tertiary[:2] == path for tertiary in coverage.counts[2])
            named = f"all {inside}" if len(empty) == inside else ", ".join(empty)
            groups.add_row("  " + taxonomy.find(path).en, f"{coverage.counts[1][path]:,}", named)
    return [levels, groups]


def write_coverage(coverage: Coverage, taxonomy: Taxonomy, directory: Path) -> None:
    """Write coverage.json, coverage.csv (a row per category of every level) and coverage.png."""
    summary = json.dumps(summarise(coverage), indent=1, ensure_ascii=False)
    write_text(directory / "coverage.json", summary + "\n")
    write_text(directory / "coverage.csv", _table(coverage, taxonomy))
    _draw(coverage, taxonomy, directory / "coverage.png")


def summarise(coverage: Coverage) -> dict[str, Any]:
    """What coverage.json holds; a path is written with slashes."""
    levels = [
        {
            "level": level,
            "categories": len(coverage.counts[level - 1]),
            "prompts": coverage.tagged(level),
            "balance": coverage.balance(level),
            "gaps": ["/".join(path) for path in coverage.gaps(level)],
            "counts": {"/".join(path): n for path, n in coverage.counts[level - 1].items()},
        }
        for level in range(1, LEVELS + 1)
    ]
    unknown = {"/".join(path): count for path, count in coverage.unknown.items()}
    return {"levels": levels, "untagged": coverage.untagged, "unknown": unknown}


def _table(coverage: Coverage, taxonomy: Taxonomy) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["level", "path", "zh", "en", "prompts", "share"])
    for level in range(1, LEVELS + 1):
        total = max(1, coverage.tagged(level))
        for path, count in coverage.counts[level - 1].items():
            names = taxonomy.find(path)
            share = f"{count / total:.6f}"
            writer.writerow([level, "/".join(path), names.zh, names.en, count, share])
    return text.getvalue()


def _draw(coverage: Coverage, taxonomy: Taxonomy, file: Path) -> None:
    """A bar per secondary category, a segment per tertiary one, a block per primary one."""
    from matplotlib.figure import Figure

    rows = len(coverage.counts[0]) + len(coverage.counts[1])
    height = 1.5 + INCHES_A_ROW * rows
    with plot_style({"font.size": 9, "text.color": INK}):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0.29, 0.4 / height, 0.66, 1 - 1.4 / height))
        _paint(axes, coverage, taxonomy)
        figure.text(MARGIN, 1 - 0.36 / height, "Prompts by category", fontsize=13, weight="bold")
        figure.text(MARGIN, 1 - 0.64 / height, _headline(coverage), color=MUTED)
        note = (
            "Bars are secondary categories, their segments tertiary ones. Pale: tagged no deeper."
        )
        figure.text(MARGIN, 1 - 0.84 / height, note, color=MUTED)
        figure.savefig(file, dpi=150, metadata={"Software": None})


def _headline(coverage: Coverage) -> str:
    parts = [
        f"{len(counts) - len(coverage.gaps(level))} of {len(counts)} {name} filled, "
        f"balance {coverage.balance(level):.2f}"
        for level, (name, counts) in enumerate(zip(NAMES, coverage.counts, strict=True), start=1)
    ]
    return "  ·  ".join(parts)


def _paint(axes: Axes, coverage: Coverage, taxonomy: Taxonomy) -> None:
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import blended_transform_factory

    _, secondaries, tertiaries = coverage.counts
    widest = max(1, *secondaries.values())
    row, ticks, labels = 0, list[int](), list[str]()
    for index, (primary, count) in enumerate(coverage.counts[0].items()):
        colour = COLOURS[index % len(COLOURS)]
        title = f"{taxonomy.find(primary).en}  ({count:,})"
        place = blended_transform_factory(axes.figure.transFigure, axes.transData)
        axes.text(MARGIN, row, title, color=colour, weight="bold", va="center", transform=place)
        row += 1
        for path in (path for path in secondaries if path[:1] == primary):
            parts = [n for tertiary, n in tertiaries.items() if tertiary[:2] == path]
            left = 0
            for part in filter(None, parts):
                axes.barh(row, part, 0.72, left, color=colour, edgecolor="white", linewidth=0.4)
                left += part
            # Prompts whose path ends at this level have no segment of their own.
            axes.barh(row, secondaries[path] - left, 0.72, left, color=colour, alpha=0.35)
            empty = parts.count(0)
            note = f"{secondaries[path]:,}" + (f"   {empty} of {len(parts)} empty" if empty else "")
            x = secondaries[path] + 0.01 * widest
            axes.text(x, row, note, color=MUTED, va="center", fontsize=8)
            ticks.append(row)
            labels.append(taxonomy.find(path).en)
            row += 1
    axes.set_yticks(ticks, labels)
    axes.set_ylim(row - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * widest)
    axes.tick_params(axis="both", length=0, colors=MUTED, labelsize=8.5)
    axes.tick_params(axis="y", colors=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", color="#e2e5e9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
