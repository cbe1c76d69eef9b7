from __future__ import annotations

import re

import pytest

from rlhf.evaluation.page import change, duration, number, p_value, percent, signed, source_matrix
from tests.evaluation.pages import catalogue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.7812), "78.1\u202f%"),
        (percent(None), "–"),
        (change(2.0, 8.0), "−75\u202f%"),
        (change(None, 8.0), "–"),
        (number(1234567), "1\u202f234\u202f567"),
        (number(0.03123), "0.0312"),
        (number(1234.4), "1\u202f234"),
        (number(-2.5), "−2.5"),
        (number("text"), "text"),
        (number(True), "True"),
        (number(None), "–"),
        (signed(0.416), "+0.42"),
        (signed(-0.416), "−0.42"),
        (p_value(1e-9), "p < 0.001"),
        (p_value(0.0321), "p = 0.032"),
        (p_value(0.5), "p = 0.50"),
        (duration(31.6), "32 s"),
        (duration(245), "4 min 05 s"),
        (duration(7260), "2 h 01 min"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected


def test_translations_keep_the_numbers() -> None:
    for english, chinese in catalogue().items():
        places = sorted(map(int, re.findall(r"\{(\d)\}", chinese)))
        assert places == list(range(1, english.count("{}") + 1)), english
        assert "{}" not in chinese, english


def test_source_matrix_is_the_lower_triangle() -> None:
    table = [{"first": "7B ppo", "second": "7B sft", "pairs": 3}]
    matrix = source_matrix(table)
    assert matrix["names"] == ["7B ppo", "7B sft"]
    assert matrix["rows"] == [("7B ppo", [None]), ("7B sft", [table[0], None])]
