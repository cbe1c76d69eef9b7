"""One line for a config that does not validate: file, key, what is wrong, how to mend it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rlhf.config.schema import Config, Section

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "a whole number",
    "model_type": "a mapping",
    "string_too_short": "text that is not empty",
    "string_type": "text (put it in quotes)",
    "tuple_type": "a list",
}


@dataclass(frozen=True)
class Layer:
    """One source of values: a file, or an override. source: what to call it in an error."""

    source: str
    values: dict[str, Any]


def one_line(error: ValidationError, merged: dict[str, Any], layers: Sequence[Layer]) -> str:
    """The first error in one line, and how many more keys have one.

    merged: the values that failed. layers: where they came from, later ones over earlier ones.
    """
    by_key: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    # A mistyped key leaves the right one missing, and is the cause.
    for details in sorted(
        error.errors(include_url=False), key=lambda one: one["type"] == "missing"
    ):
        by_key.setdefault(_known_part(details, merged), []).append(details)
    location, same_key = next(iter(by_key.items()))
    line = f"{_source(location, layers)}: {_describe(location, same_key)}"
    more = len(by_key) - 1
    return line if not more else f"{line} (and {more} more error{'s' if more > 1 else ''})"


def _known_part(details: ErrorDetails, merged: dict[str, Any]) -> tuple[str | int, ...]:
    """The location without pydantic's own additions to it: the branch of a union, `[key]`."""
    location = details["loc"]
    if details["type"] == "missing":
        return location
    value: Any = merged
    for depth, part in enumerate(location):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return location[:depth]
    return location


def _describe(location: tuple[str | int, ...], same_key: list[ErrorDetails]) -> str:
    first = same_key[0]
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}; {_nearest(location)}"
    if first["type"] == "missing":
        return f"{key} is missing; add it"
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    expected = " or ".join(
        dict.fromkeys(
            _EXPECTED.get(one["type"], one["msg"].removeprefix("Input should be "))
            for one in same_key
        )
    )
    value = json.dumps(first["input"], ensure_ascii=False)
    shown = value if len(value) <= 60 else value[:57] + "..."
    return f"{key} = {shown}; expected {expected}"


def _nearest(location: tuple[str | int, ...]) -> str:
    """The valid key most like the last part of `location`; all valid ones if none is like it."""
    annotation: Any = Config
    for part in location[:-1]:
        annotation = _inside(annotation, part)
    fields = list(annotation.model_fields)
    near = difflib.get_close_matches(str(location[-1]), fields, n=1)
    if not near:
        return f"valid here: {', '.join(fields)}"
    return f"did you mean {'.'.join(str(part) for part in (*location[:-1], near[0]))}?"


def _inside(annotation: Any, part: str | int) -> Any:
    """The declared type of a section's field, or of a mapping's or list's element; never None."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        inner: Any = annotation.model_fields[str(part)].annotation
    else:
        inner = [argument for argument in get_args(annotation) if argument is not Ellipsis][-1]
    if get_origin(inner) in (Union, UnionType):
        inner = next(argument for argument in get_args(inner) if argument is not type(None))
    return inner


def _source(location: tuple[str | int, ...], layers: Sequence[Layer]) -> str:
    """The last layer that gives a value at `location`; the last file for a key that is missing."""
    for layer in reversed(layers if location else ()):
        if _gives(layer.values, location):
            return layer.source
    return [layer.source for layer in layers if layer.source != "--set"][-1]


def _gives(values: Any, location: tuple[str | int, ...]) -> bool:
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
