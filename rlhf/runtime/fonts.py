"""Plots whose text may be Chinese: names of runs, policies and categories."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_CHINESE = (
    *("NotoSansCJK", "NotoSansSC", "SourceHanSans", "PingFang", "msyh", "Hiragino Sans GB"),
    *("wqy-", "simhei", "DroidSansFallback", "Arial Unicode"),
)
"""How the files begin of fonts with Chinese characters that systems bring; the first is taken."""


@contextmanager
def plot_style(style: Mapping[Any, Any]) -> Iterator[None]:
    """matplotlib with these settings. Characters that its own font lacks are drawn with one of the
    system's; where there is none they are boxes in a PNG, and an SVG keeps the text."""
    from matplotlib import rc_context

    with rc_context({**style, "font.family": _families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@cache
def _families() -> list[str]:
    from matplotlib.font_manager import findSystemFonts

    files = sorted(map(Path, findSystemFonts()))
    for name in _CHINESE:
        # By file: matplotlib's list of fonts is of the day when it was first used.
        found = [file for file in files if file.name.lower().startswith(name.lower())]
        if families := [family for file in found if (family := _added(file))]:
            return ["DejaVu Sans", families[0]]
    return ["DejaVu Sans"]


def _added(file: Path) -> str | None:
    """The family of a font that matplotlib now has too; None if the file is no font it can read."""
    from matplotlib.font_manager import fontManager, get_font

    try:
        fontManager.addfont(file)
        return str(get_font(file).family_name)
    except (OSError, RuntimeError, ValueError):
        return None
