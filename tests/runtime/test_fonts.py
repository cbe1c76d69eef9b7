from __future__ import annotations

import warnings
from pathlib import Path

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


def test_a_font_that_cannot_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = font_manager.findfont("DejaVu Sans Mono")
    (tmp_path / "NotoSansCJK-Broken.ttf").write_bytes(b"\0\1\0\0junk")
    (tmp_path / "NotoSansCJK-Nowhere.ttf").symlink_to(tmp_path / "nowhere")
    (tmp_path / "NotoSansSC-Empty.otf").touch()
    (tmp_path / "simhei.ttf").write_bytes(Path(sound).read_bytes())
    files = sorted(map(str, tmp_path.iterdir()))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    listed = font_manager.fontManager
    monkeypatch.setattr(listed, "ttflist", [*listed.ttflist])
    _families.cache_clear()
    try:
        assert _families() == ["DejaVu Sans", "DejaVu Sans Mono"]
    finally:
        _families.cache_clear()
