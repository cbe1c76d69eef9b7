"""MOSS's entries in transformers' Auto classes."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

from rlhf.models.moss.configuration import MossConfig
from rlhf.models.moss.modeling import MossForCausalLM, MossForSequenceClassification, MossModel
from rlhf.models.moss.tokenization import MossTokenizer


def register() -> None:
    """Native classes win over the code that `auto_map` names, as for the Baichuan family."""
    AutoConfig.register(MossConfig.model_type, MossConfig)
    AutoModel.register(MossConfig, MossModel)
    AutoModelForCausalLM.register(MossConfig, MossForCausalLM)
    AutoModelForSequenceClassification.register(MossConfig, MossForSequenceClassification)
    REGISTERED_TOKENIZER_CLASSES["MossTokenizer"] = MossTokenizer
