"""What generation_config.json may say, so that nothing in it fails at the first question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from transformers import GenerationConfig

FILE = "generation_config.json"


def _known(token: int, info: ValidationInfo) -> int:
    vocabulary: Any = info.context
    if token >= vocabulary:
        raise ValueError(f"below {vocabulary}, the size of the vocabulary")
    return token


def _listed(tokens: Any) -> Any:
    return [tokens] if isinstance(tokens, (int, str)) else tokens


def _pairs(biases: Any) -> Any:
    """As in JSON, which has no keys but texts."""
    if isinstance(biases, dict) and all(isinstance(tokens, tuple) for tokens in biases):
        return [[list(tokens), bias] for tokens, bias in biases.items()]
    return biases


def _float(number: Any) -> Any:
    if not isinstance(number, float):
        raise ValueError("a number with a decimal point")
    return number


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Cutoff = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Ids = list[Count]
Token = Annotated[Count, AfterValidator(_known)]
Words = Annotated[list[Token], Field(min_length=1)]
Bias = Annotated[tuple[Words, Annotated[float, BeforeValidator(_float)]], Field(strict=False)]
Decay = Annotated[tuple[Count, Positive], Field(strict=False)]
Forced = Annotated[Words, BeforeValidator(_listed)]
Marks = Annotated[list[int], BeforeValidator(_listed)]  # turned into tensors, and not used


class Always(BaseModel):
    """What counts however tokens are chosen, in the types of JSON: transformers looks at few.

    Answers are streamed, one by one: no beams, no drafts of several tokens, nothing to compare.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    do_sample: bool | None
    max_new_tokens: Annotated[int, Field(ge=1)] | None
    min_new_tokens: Count | None
    min_length: Count | None
    max_time: Positive | None
    repetition_penalty: Positive | None
    no_repeat_ngram_size: Count | None
    suppress_tokens: Ids | None
    begin_suppress_tokens: Ids | None
    bad_words_ids: Annotated[list[Words], Field(min_length=1)] | None
    sequence_bias: Annotated[list[Bias], Field(min_length=1), BeforeValidator(_pairs)] | None
    exponential_decay_length_penalty: Decay | None
    guidance_scale: float | None
    forced_bos_token_id: Forced | None
    forced_eos_token_id: Forced | None
    bos_token_id: Marks | None
    decoder_start_token_id: Marks | None
    cache_implementation: Literal["dynamic", "static"] | None
    num_beams: Literal[1] | None
    num_return_sequences: Literal[1] | None
    penalty_alpha: Literal[0] | None
    return_dict_in_generate: Literal[False] | None
    token_healing: Literal[False] | None
    use_mtp: Literal[False] | None
    is_assistant: Literal[False] | None
    constraints: None
    dola_layers: None
    assistant_early_exit: None
    force_words_ids: None
    prefill_chunk_size: None
    prompt_lookup_num_tokens: None
    stop_strings: None


class Drawn(Always):
    """What counts as well where tokens are drawn."""

    temperature: Positive | None
    top_k: Count | None
    top_p: Share | None
    min_p: Share | None
    top_h: Annotated[float, Field(gt=0, le=1)] | None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None
    epsilon_cutoff: Cutoff | None
    eta_cutoff: Cutoff | None


def check_sampling(
    config: GenerationConfig, name: str, vocabulary: int, drawn: bool = False
) -> None:
    """Raises ValueError for the first value by which no token can be chosen.

    name: what the configuration is called, in front of the line.
    vocabulary: how many tokens the model knows.
    drawn: whether tokens may be drawn where it does not say so.
    """
    values: dict[str, Any] = vars(config)
    kind = Drawn if drawn or values["do_sample"] else Always
    checked = {key: values.get(key) for key in kind.model_fields}  # a version may not know one
    if not values["do_sample"] and checked.get("temperature") == 0:
        checked["temperature"] = None  # greedy until another is asked for
    try:
        kind.model_validate(checked, context=vocabulary)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "none_required":
            reason = "left out, as it is not served here"
        raise ValueError(
            f"{name}: {field} is {first['input']!r:.80}, and should be {reason}; correct it"
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
