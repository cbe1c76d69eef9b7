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
    from matplotlib.font_manager import findSystemFonts, fontManager, get_font

    files = sorted(map(Path, findSystemFonts()))
    for name in _CHINESE:
        # By file: matplotlib's list of fonts is of the day when it was first used.
        if found := [file for file in files if file.name.lower().startswith(name.lower())]:
            for file in found:
                fontManager.addfont(file)
            return ["DejaVu Sans", get_font(found[0]).family_name]
    return ["DejaVu Sans"]
