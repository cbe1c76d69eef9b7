"""MOSS's calculator: exact as long as it can be, in time and memory that do not depend on luck."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from rlhf.apps.chat.expressions import Arithmetic, evaluate, normalised

Number = Fraction | float
BITS_LIMIT = 10_000
FACTORIAL_LIMIT = 500
DIGITS = 12
CONSTANTS = {"pi": math.pi, "π": math.pi, "e": math.e}


def calculate(expression: str) -> str:
    """The value of an expression, to 12 digits unless it is whole.

    `log` is the natural logarithm unless a base follows. Raises ValueError for what has no value.
    """
    text = normalised(expression)
    try:
        return _written(evaluate(text, ARITHMETIC))
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except OverflowError:
        raise ValueError("too large") from None
    except TypeError:
        raise ValueError("a function has too few or too many arguments") from None


def calculate_quoted(expression: str) -> str:
    """As MOSS reads it in its own data: `Calculate("6*7") => '42'`."""
    return repr(calculate(expression))


def _power(base: Number, exponent: Number) -> Number:
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if base < 0 and not whole:
        raise ValueError("root of a negative number")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and whole:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent) > BITS_LIMIT:
            raise OverflowError
        return Fraction(base**exponent.numerator)
    return math.pow(base, exponent)


def _factorial(number: Number) -> Number:
    if number != int(number) or not 0 <= number <= FACTORIAL_LIMIT:
        raise ValueError(f"factorial is for whole numbers from 0 to {FACTORIAL_LIMIT}")
    return Fraction(math.factorial(int(number)))


def _round(number: Number, digits: Number = Fraction(0)) -> Number:
    if digits != int(digits) or not -DIGITS <= digits <= DIGITS:
        raise ValueError(f"round is to at most {DIGITS} digits")
    return Fraction(round(Fraction(number), int(digits)))


def _name(name: str) -> Number:
    if name not in CONSTANTS:
        raise ValueError(f"{name!r} is no number")
    return CONSTANTS[name]


def _whole(function: Callable[..., int]) -> Callable[..., Fraction]:
    return lambda number: Fraction(function(number))


def _written(value: Number) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError
        return f"{value:.{DIGITS}g}"
    if value.denominator == 1 and abs(value) < 10**30:
        return str(value.numerator)
    context = Context(prec=DIGITS)
    rounded = context.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(
        context
    )
    return f"{rounded:f}" if -DIGITS < rounded.adjusted() < 30 else f"{rounded:e}"


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "round": _round,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "factorial": _factorial,
    "min": min,
    "max": max,
    "ln": math.log,
    **{
        function.__name__: function
        for function in (math.sqrt, math.exp, math.log, math.log2, math.log10, math.degrees)
        + (math.sin, math.cos, math.tan, math.asin, math.acos, math.atan, math.radians)
    },
}
ARITHMETIC = Arithmetic(number=Fraction, name=_name, functions=FUNCTIONS, power=_power)
