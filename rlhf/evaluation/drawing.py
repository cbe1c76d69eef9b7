"""One drawing for two places: a PNG, and an SVG that follows the page's fonts and colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf.runtime.fonts import plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID, PAPER = "#20262e", "#66707c", "#e2e5e9", "#fefefd"
SERIES = BLUE, ORANGE, GREEN, PURPLE = ("#2b6a9b", "#c4752a", "#46896a", "#8565ab")
# In the page a colour is a CSS variable: the same drawing serves light, dark and print.
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--card)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES, start=1)},
}
XLINK = "http://www.w3.org/1999/xlink"
SIZE = (3.9, 2.85)  # inches: text stays readable where a phone shows it 330 pixels wide
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
}

LONGEST_NAME = 20  # characters that have room in a plot

Painter = Callable[["Axes"], None]


@dataclass(frozen=True)
class Plot:
    """A drawn plot. name: of its file; section: where in the page; note: how to read it."""

    name: str
    section: str
    note: str
    png: bytes
    svg: str


@dataclass(frozen=True)
class Sketch:
    """A plot still to be drawn by its painter."""

    name: str
    section: str
    title: str
    note: str
    painter: Painter

    def drawn(self) -> Plot:
        png, svg = render(self.name, self.title, self.painter)
        return Plot(self.name, self.section, self.note, png, svg)


def shortened(name: str) -> str:
    """The end of a long name, such as a path's, which tells it from the others."""
    return name if len(name) <= LONGEST_NAME else f"…{name[-LONGEST_NAME:]}"


def render(name: str, title: str, paint: Painter) -> tuple[bytes, str]:
    """Paints one plot and gives it as PNG and as inline SVG, the same bytes each time.

    name: makes the SVG's ids differ from those of other plots in the page.
    """
    from matplotlib.figure import Figure

    with plot_style({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        paint(axes)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return png.getvalue(), _inline(svg.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Without prolog, styles and clashing ids; in the page's colours; as wide as its place."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    opening = rf'<svg viewBox="\1" role="img" aria-label="{title}" xmlns:xlink="{XLINK}">'
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, svg, count=1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
