"""report/index.html: one file, no external resource, everything escaped by the template engine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from shlex import quote
from typing import Any

from rlhf.evaluation.category_names import CategoryNames
from rlhf.evaluation.drawing import Plot
from rlhf.evaluation.policy import JudgeRow, samples
from rlhf.evaluation.run_files import RunFiles

MINUS = "\u2212"
NONE = "\u2013"


def render(
    run_dir: Path,
    files: RunFiles,
    report: dict[str, Any],
    plots: Sequence[Plot],
    names: CategoryNames,
) -> str:
    """The page of a run.

    plots: drawn from the same report; their SVG goes into the page as it is. names: of categories.
    """
    return _page(
        "report.html.jinja",
        plots,
        names,
        run_path=quote(str(run_dir)),
        **report,
        samples=samples(files.last.judge, files.config.get("evaluate", {}).get("samples", 5)),
        matrix=source_matrix((report["rm"] or {}).get("by_source", [])),
    )


def render_rm(name: str, rm: dict[str, Any], plots: Sequence[Plot], place: Path) -> str:
    """The page of one reward model.

    name: its heading; rm: margin_report.build's result; place: where its pairs.jsonl lies.
    """
    run_dir = place.parent.parent if place.parent.name == "rm" else place.parent
    values = {"name": name, "rm": rm, "matrix": source_matrix(rm["by_source"])}
    values["run_path"] = quote(str(run_dir))
    return _page("rm.html.jinja", plots, CategoryNames.near(place), **values)


def render_policy(
    report: Mapping[str, Any], plots: Sequence[Plot], samples: Sequence[JudgeRow], place: Path
) -> str:
    """The page of policies against one baseline. report: of policy_report.write; place: where it
    will lie."""
    names = CategoryNames.near(place)
    return _page("policy.html.jinja", plots, names, **report, samples=samples)


def render_comparison(
    models: Sequence[str],
    lines: Sequence[Sequence[str]],
    plots: Sequence[Plot],
    *,
    same_pairs: bool,
    simulated: bool,
) -> str:
    """The page of several reward models. lines: compare.lines, a cell a model behind the title."""
    facts: dict[str, Any] = {"same_pairs": same_pairs, "simulated": simulated}
    return _page("compare.html.jinja", plots, models=models, lines=lines, **facts)


def _page(
    template: str, plots: Sequence[Plot], names: CategoryNames | None = None, **values: Any
) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("rlhf.evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        percent=percent,
        change=change,
        number=number,
        signed=signed,
        points=points,
        p_value=p_value,
        duration=duration,
        category=names.english if names else str,
    )
    sections = defaultdict(list)
    for plot in plots:
        sections[plot.section].append({"note": plot.note, "svg": Markup(plot.svg)})
    # Written behind all else, when it is known which categories are named.
    values |= {"plots": sections, "chinese_categories": names.chinese if names else {}}
    return environment.get_template(template).render(**values)


def source_matrix(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Sources (size and stage) and, for each row and column of them, the accuracy cell or None."""
    names = sorted({row[side] for row in table for side in ("first", "second")})
    cells = {(row["first"], row["second"]): row for row in table}
    rows = [
        (name, [cells.get((other, name)) for other in names[: index + 1]])
        for index, name in enumerate(names)
    ]
    return {"names": names, "rows": rows}


def percent(share: float | None, digits: int = 1) -> str:
    """0.7812 -> 78.1 %."""
    return NONE if share is None else f"{100 * share:.{digits}f}\u202f%"


def change(after: float | None, before: float | None) -> str:
    """2.0 after 8.0 -> -75 %."""
    if after is None or not before:
        return NONE
    return f"{100 * (after / before - 1):+.0f}\u202f%".replace("-", MINUS)


def number(value: Any) -> str:
    """Three significant digits, thin thousands; what is no number as it is."""
    if value is None:
        return NONE
    if isinstance(value, float) and isfinite(value):
        if value.is_integer() and abs(value) >= 1000:
            return number(int(value))
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return text.replace(",", "\u202f").replace("-", MINUS)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\u202f").replace("-", MINUS)
    return str(value)


def signed(value: float | None) -> str:
    """0.416 -> +0.42."""
    return NONE if value is None else f"{value:+.2f}".replace("-", MINUS)


def points(share: float | None) -> str:
    """-0.0416 -> -4.2: percentage points."""
    return NONE if share is None else f"{100 * share:+.1f}".replace("-", MINUS)


def p_value(p: float | None) -> str:
    """0.0321 -> p = 0.032."""
    if p is None:
        return NONE
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def duration(seconds: float) -> str:
    """245 -> 4 min 05 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
