"""What the fields of records may hold, as strictly as their JSON Schemas say it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal, TypeGuard

from pydantic import (
    AwareDatetime,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from rlhf.data.jsonl import Text

Role = Literal["system", "user", "assistant"]
Label = Literal["helpful", "harmless"]
Stage = Literal["base", "sft", "dpo", "ppo", "unknown"]
UNKNOWN = "unknown"
"""What converted responses have for the family, model and size that nobody wrote down."""
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Grade = Annotated[int, Field(strict=True, ge=1, le=5)]
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9.]+)?([Zz]|[+-][0-9:]+)$"
Category = Annotated[tuple[Text, ...], Field(max_length=3)]


def _no_number(time: object) -> object:
    """A number, also as text, would pass for the seconds since 1970."""
    if isinstance(time, datetime) or isinstance(time, str) and re.match(_TIME, time):
        return time
    raise ValueError("no time with its zone; write it as 2026-10-01T12:00:00Z")


def _also_written_as_floats(items: object, read: ValidatorFunctionWrapHandler) -> object:
    """JSON Schema's `integer` takes 1.0 for 1. Looked at only where plain reading fails, as the
    tokens of a response are many."""
    try:
        return read(items)
    except ValidationError:
        if not isinstance(items, list | tuple):
            raise
        return read([int(item) if _is_whole(item) else item for item in items])


def _is_whole(item: object) -> TypeGuard[float]:
    return isinstance(item, float) and item.is_integer()


Wholes = Annotated[tuple[Whole, ...], WrapValidator(_also_written_as_floats)]
Grades = Annotated[tuple[Grade, ...], WrapValidator(_also_written_as_floats)]
Time = Annotated[
    AwareDatetime,
    BeforeValidator(_no_number),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _TIME}),
]
