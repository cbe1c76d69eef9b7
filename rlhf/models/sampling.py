"""What generation_config.json may say, so that nothing in it fails at the first question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError
from transformers import GenerationConfig

FILE = "generation_config.json"
Positive = Annotated[float, Field(gt=0)]


class Always(BaseModel):
    """What counts however tokens are chosen. Answers are streamed, which beams cannot be."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None
    repetition_penalty: Positive | None
    num_beams: Literal[1] | None


class Drawn(Always):
    """What counts as well where tokens are drawn."""

    temperature: Positive | None
    top_k: Annotated[int, Field(ge=0)] | None
    top_p: Annotated[float, Field(ge=0, le=1)] | None


def check_sampling(config: GenerationConfig, name: str) -> None:
    """Raises ValueError for the first value by which no token can be chosen.

    name: what the configuration is called, in front of the line.
    """
    values: dict[str, Any] = vars(config)
    kind = Drawn if values["do_sample"] else Always
    try:
        kind.model_validate({key: values[key] for key in kind.model_fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Input should be ")
        raise ValueError(
            f"{name}: {first['loc'][0]} is {first['input']!r}, and should be {reason}; correct it"
        ) from None


def check_generation_file(directory: Path) -> None:
    """Raises ValueError for a file that cannot be loaded from, or that transformers passes over."""
    file = directory / FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error}); copy the file again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: {found!r:.40} is no JSON object; copy the file again")
    try:
        GenerationConfig.from_dict(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {str(error).splitlines()[0].rstrip('.')}; correct it") from None
