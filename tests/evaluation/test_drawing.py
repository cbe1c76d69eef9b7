from __future__ import annotations

import re

from rlhf.evaluation.drawing import SERIES, VARIABLES, render


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
