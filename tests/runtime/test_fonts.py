from __future__ import annotations

import warnings

import pytest
from matplotlib import font_manager

from rlhf.evaluation.drawing import render
from rlhf.runtime.fonts import _families


def titled(title: str) -> tuple[bytes, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return render("plot", title, lambda axes: None)


def test_chinese_is_drawn_where_the_system_has_a_font() -> None:
    if len(_families()) == 1:
        pytest.skip("no font with Chinese characters is installed")
    assert titled("运行")[0] != titled("知识")[0], "two boxes each would be the same"


def test_without_a_font_nothing_is_said_and_svg_keeps_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    _families.cache_clear()
    try:
        assert _families() == ["DejaVu Sans"]
        png, svg = titled("运行")
    finally:
        _families.cache_clear()
    assert png.startswith(b"\x89PNG") and ">运行</text>" in svg
