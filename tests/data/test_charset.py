from __future__ import annotations

import pytest

from rlhf.data.charset import GBK, NOT_UTF8, not_utf8

CHINESE = '{"instruction": "面包用哪种面粉？", "output": "高筋面粉。"}'


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (CHINESE.encode("gbk"), GBK),
        (CHINESE.encode("gb18030"), GBK),
        ("镕基，你好吗".encode("gbk"), GBK),  # one character that GB2312 lacks
        ("Une crème brûlée à l'été".encode("latin-1"), NOT_UTF8),
        (b"\xff", NOT_UTF8),
        (CHINESE.encode().replace("用".encode(), b"\xff"), NOT_UTF8),  # a damaged byte
        (CHINESE.encode("big5", errors="ignore")[:30] + b"\xff", NOT_UTF8),
    ],
)
def test_gbk_is_named_and_nothing_else(raw: bytes, reason: str) -> None:
    assert not_utf8(raw) == reason
