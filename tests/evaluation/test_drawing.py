from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from rlhf.evaluation.drawing import SERIES, SIZE, STYLE, VARIABLES, render
from rlhf.evaluation.plots import PPO_CURVES, VERDICTS_BY
from rlhf.runtime.fonts import plot_style


def test_png_and_svg_of_one_drawing() -> None:
    def paint(axes: object) -> None:
        axes.plot([0, 1], [1, 2], "o-", color=SERIES[0])  # type: ignore[attr-defined]

    png, svg = render("one", "A title", paint)
    assert png.startswith(b"\x89PNG")
    assert svg.startswith("<svg viewBox=") and 'aria-label="A title"' in svg
    assert "<text" in svg, "text must stay text"
    assert "var(--series-1)" in svg and not any(colour in svg for colour in VARIABLES)
    assert "<style" not in svg and "<metadata" not in svg
    assert render("one", "A title", paint) == (png, svg)
    other = render("two", "A title", paint)[1]
    assert not set(re.findall(r'id="([^"]+)"', svg)) & set(re.findall(r'id="([^"]+)"', other))


@pytest.mark.parametrize(
    ("title", "label"),
    [(title, "against SFT with as\nmuch extra compute") for title in VERDICTS_BY.values()]
    + [(title, "100") for _, title, _ in PPO_CURVES],
)
def test_a_title_fits_above_its_plot(title: str, label: str) -> None:
    """label: the widest beside the axis."""
    with plot_style(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.set_yticks([0], [label])
        figure.draw_without_rendering()
        (drawn,) = (text for text in axes.findobj(Text) if text.get_text() == title)
        assert drawn.get_window_extent().x1 <= figure.bbox.x1
