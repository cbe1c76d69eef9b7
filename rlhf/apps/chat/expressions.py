"""Arithmetic as people write it: a reader of its own, for any kind of number."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LENGTH_LIMIT = 300
DEPTH_LIMIT = 40
WRITTEN_OTHERWISE = {
    "×": "*",
    "÷": "/",
    "−": "-",
    "^": "**",
    "（": "(",
    "）": ")",
    "＝": "=",
    "，": ",",
    "；": ";",
    "＋": "+",
    "－": "-",
    "＊": "*",
    "／": "/",
    "％": "%",
    "．": ".",
    "！": "!",
    "²": "**2",
    "³": "**3",
}
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3}(?![\d.]))?"
TOKEN = re.compile(rf"\s*({NUMBER}|[^\W\d]\w*|\*\*|//|[-+*/%(),!])\s*")
SUMS = {"+": operator.add, "-": operator.sub}
PRODUCTS = {
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


@dataclass(frozen=True)
class Arithmetic:
    """What an expression is worth.

    number: from a literal as it is written, at most three digits in its exponent.
    name: from the name of a constant or a variable; ValueError for others.
    functions: what may be called.
    power: from base and exponent, the one operator that needs bounds.
    """

    number: Callable[[str], Any]
    name: Callable[[str], Any]
    functions: Mapping[str, Callable[..., Any]]
    power: Callable[[Any, Any], Any]


def normalised(text: str) -> str:
    """The same with the signs that are read here; ValueError where it is too long."""
    if len(text) > LENGTH_LIMIT:
        raise ValueError(f"longer than {LENGTH_LIMIT} characters")
    for other, sign in WRITTEN_OTHERWISE.items():
        text = text.replace(other, sign)
    return text


def evaluate(text: str, arithmetic: Arithmetic) -> Any:
    """The value of an expression after `normalised`; ValueError where it is none.

    `2x` and `2(x+1)` are products, `15%` is a share unless something follows, `5!` a factorial.
    """
    tokens, end = [], 0
    while end < len(text.rstrip()):
        found = TOKEN.match(text, end)
        if found is None:
            raise ValueError(f"{text[end]!r} is not part of an expression")
        tokens.append(found[1])
        end = found.end()
    reader = _Reader(tokens, arithmetic)
    value = reader.sum()
    if reader.next:
        raise ValueError(f"{reader.next!r} is too much in {text.strip()!r}")
    return value


class _Reader:
    """Recursive descent, a method a level of precedence."""

    def __init__(self, tokens: list[str], arithmetic: Arithmetic) -> None:
        self.tokens, self.arithmetic = tokens[::-1], arithmetic
        self.depth = 0

    @property
    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def take(self, *wanted: str) -> str:
        """The next token if it is one of these, else nothing."""
        return self.tokens.pop() if self.next in wanted and self.tokens else ""

    def sum(self) -> Any:
        value = self.product()
        while sign := self.take(*SUMS):
            value = SUMS[sign](value, self.product())
        return value

    def product(self) -> Any:
        value = self.signed()
        while True:
            if sign := self.take(*PRODUCTS):
                if sign == "%" and not self._operand_follows(numbers=True):
                    value = value / self.arithmetic.number("100")
                else:
                    value = PRODUCTS[sign](value, self.signed())
            elif self._operand_follows(numbers=False):
                value = value * self.signed()
            else:
                return value

    def signed(self) -> Any:
        """Every level of nesting comes by here."""
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise ValueError("nested too deeply")
        if sign := self.take("+", "-"):
            value = self.signed()
            value = -value if sign == "-" else value
        else:
            value = self.operand()
            if self.take("!"):
                value = self._factorial(value)
            if self.next == "!":  # a double factorial to some, two factorials to others
                raise ValueError("'!!' is not read; write (n!)! for a factorial of a factorial")
            if self.take("**"):
                value = self.arithmetic.power(value, self.signed())
        self.depth -= 1
        return value

    def operand(self) -> Any:
        token = self.tokens.pop() if self.tokens else ""
        if token == "(":
            value = self.sum()
            self._close()
            return value
        if token in self.arithmetic.functions:
            if not self.take("("):
                raise ValueError(f"{token} needs its argument in brackets")
            arguments = [self.sum()]
            while self.take(","):
                arguments.append(self.sum())
            self._close()
            return self.arithmetic.functions[token](*arguments)
        if token[:1].isdigit() or token[:1] == ".":
            return self.arithmetic.number(token)
        if token[:1].isalpha():
            return self.arithmetic.name(token)
        raise ValueError(f"something is missing before {token!r}" if token else "it ends too soon")

    def _factorial(self, value: Any) -> Any:
        if "factorial" not in self.arithmetic.functions:
            raise ValueError("'!' is not part of an expression")
        return self.arithmetic.functions["factorial"](value)

    def _close(self) -> None:
        if not self.take(")"):
            raise ValueError("a bracket is not closed")

    def _operand_follows(self, numbers: bool) -> bool:
        first = self.next[:1]
        number = first.isdigit() or first == "."
        return first.isalpha() or first == "(" or (numbers and number)
