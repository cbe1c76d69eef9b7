"""Bytes that are not UTF-8: which encoding they seem to be in."""

from __future__ import annotations

NOT_UTF8 = "not UTF-8: save the file in that encoding"
GBK = "not UTF-8 but, as it seems, GBK or GB18030: save the file as UTF-8"


def not_utf8(raw: bytes) -> str:
    """The reason to reject bytes that are not UTF-8."""
    return GBK if _is_gbk(raw) else NOT_UTF8


def _is_gbk(raw: bytes) -> bool:
    """Whether bytes decode as GB18030 to characters that are mostly among GB2312's, the common
    ones: of Western letters in Latin-1 none would be. Damaged UTF-8 is told by what of it is
    whole."""
    as_utf8 = raw.decode(errors="surrogateescape")
    escaped = sum("\udc80" <= letter <= "\udcff" for letter in as_utf8)
    whole = sum(not letter.isascii() for letter in as_utf8) - escaped
    if whole >= escaped:
        return False
    try:
        letters = [letter for letter in raw.decode("gb18030") if not letter.isascii()]
    except UnicodeDecodeError:
        return False
    common = "".join(letters).encode("gb2312", errors="ignore")
    return len(common) > len(letters)  # two bytes each: more than half of them
