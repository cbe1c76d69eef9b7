from __future__ import annotations

import pytest

from rlhf.apps.chat.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+2*3", "7"),
        ("(1+2)*3", "9"),
        ("8-3-2", "3"),
        ("8/4/2", "1"),
        ("-2^2", "-4"),
        ("2^3^2", "512"),
        ("2^-1", "0.5"),
        ("7//2 + 7%4", "6"),
        ("200*15%", "30"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.333333333333"),
        ("2/3*3", "2"),
        ("2(3+4)", "14"),
        ("（1+2）×3÷4", "2.25"),
        ("（３＋4）＊5－2³", "27"),
        ("2^0.5", "1.41421356237"),
        ("sqrt(16)+abs(-3)", "7"),
        ("log(8,2)", "3"),
        ("ln(e)+sin(pi/2)", "2"),
        ("max(1, 2, 3)", "3"),
        ("round(2.567, 1)", "2.6"),
        ("floor(7/2)", "3"),
        ("7!/(4!*(7-4)！)", "35"),
        ("-2^3!+(3!)!", "656"),
        ("factorial(20)", "2432902008176640000"),
        ("2^100", "1.26765060023e+30"),
        ("1e300*1e300", "1e+600"),
        ("1.5e-3*2", "0.003"),
    ],
)
def test_value(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1/0", "division by zero"),
        ("9^9^9", "too large"),
        ("2.5^99999", "too large"),
        ("10.0^400.5", "too large"),
        ("factorial(501)", "from 0 to 500"),
        ("0.5!", "whole numbers"),
        ("!5", "missing before"),
        ("5!!", "'!!' is not read"),
        ("2+5! !", "'!!' is not read"),
        ("factorial(0.5)", "whole numbers"),
        ("round(1.5, 999999999)", "at most 12 digits"),
        ("(-8)^(1/3)", "negative"),
        ("sqrt(-1)", "domain"),
        ("sqrt(1, 2)", "arguments"),
        ("sqrt 4", "brackets"),
        ("(1+2", "not closed"),
        ("1+", "ends too soon"),
        ("*3", "missing before"),
        ("2 3", "too much"),
        ("x+1", "'x' is no number"),
        ("__import__('os').getcwd()", "not part of an expression"),
        ("(1).__class__", "not part"),
        ("[1]", "not part"),
        ("1e9999", "no number"),
        ("(" * 60 + "1" + ")" * 60, "too deeply"),
        ("-" * 299 + "1", "too deeply"),
        ("1" * 301, "longer than 300"),
    ],
)
def test_no_value(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        calculate(expression)
