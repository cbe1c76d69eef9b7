"""What config models are made of: field types, the base, and the sections that stages share."""

from __future__ import annotations

from math import isqrt
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]

SHORTEST = 4
"""Tokens of a question and its answer, one each, and of the marks in front of them."""


def _has_room(value: int) -> int:
    if value < SHORTEST:
        raise ValueError(
            f"{value} tokens hold no answer with its question: they take {SHORTEST} at the least, "
            "and as a rule hundreds"
        )
    return value


Length = Annotated[int, AfterValidator(_has_room)]

LONGEST = 100
"""Characters of a name; file systems end at 255 for a folder, with what is put in front of it."""


def _plain_name(value: str) -> str:
    if not value or set(value) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    ):
        raise ValueError("use letters, digits, '.', '_' and '-' only")
    if value.startswith("."):
        raise ValueError("must not start with '.'")
    if len(value) > LONGEST:
        raise ValueError(f"use at most {LONGEST} characters; a folder is named so")
    return value


def check_divides(section: AnySection, whole: str, part: str) -> AnySection:
    check_multiple(whole, getattr(section, whole), part, getattr(section, part))
    return section


def check_multiple(whole: str, total: int, part: str, size: int) -> None:
    """Raises ValueError, with the nearest sizes that do, unless `size` divides `total`."""
    if total % size:
        low = [each for each in range(1, isqrt(total) + 1) if total % each == 0]
        divisors = {*low, *(total // each for each in low)}
        near = {max(each for each in divisors if each < size)}
        near |= {min((each for each in divisors if each > size), default=total)}
        raise ValueError(
            f"{whole} = {total} is not a multiple of {part} = {size}; "
            f"set {part} to {' or '.join(map(str, sorted(near)))}, or change {whole}"
        )


Name = Annotated[str, AfterValidator(_plain_name)]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


class TuningSection(Section):
    """Which weights learn. full: all; lora: low-rank adapters; qlora: adapters on an NF4 trunk."""

    method: Literal["full", "lora", "qlora"] = "full"
    r: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"


class OptimiserSection(Section):
    """AdamW and its schedule. `minimum`: the share of the learning rate that it ends at."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    minimum: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.95
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    kind: Literal["adamw", "adamw-8bit"] = "adamw"


class SamplingSection(Section):
    """How a model is sampled. temperature 0 is greedy; top_k 0 and top_p 1 are off.

    `stop`: texts that end a response, none of them part of what a reader sees. A section that has
    none is written without the key, and has the fingerprint that it had before there was one.
    """

    max_new_tokens: Positive = 512
    temperature: NonNegative = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(exclude_if=lambda stop: not stop)
    ] = ()
