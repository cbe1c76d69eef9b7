"""Readers of others' layouts, one module a format. `convert` turns their files into records."""

from rlhf.data.formats import (
    alpaca,
    baichuan2,
    hh_rlhf,
    label_studio,
    llamafactory_preference,
    moss_002,
    moss_003,
    openai,
    prompts,
    sharegpt,
    trl_preference,
    trl_prompt_completion,
)
from rlhf.data.formats.convert import ConvertReport, convert
from rlhf.data.formats.reading import READERS

__all__ = [
    "READERS",
    "ConvertReport",
    "alpaca",
    "baichuan2",
    "convert",
    "hh_rlhf",
    "label_studio",
    "llamafactory_preference",
    "moss_002",
    "moss_003",
    "openai",
    "prompts",
    "sharegpt",
    "trl_preference",
    "trl_prompt_completion",
]
