"""The family's entries in transformers' Auto classes."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

from rlhf.models.auto_tokenizer import never_run_remote_tokenizers
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM, BaichuanForSequenceClassification
from rlhf.models.baichuan.tokenization import BaichuanTokenizer
from rlhf.models.baichuan.trunk import BaichuanModel


def register() -> None:
    """Native classes win over the code that `auto_map` names, whatever the caller trusts.

    The tokenizer is registered under the names that checkpoints give it, not for the configuration:
    for that AutoTokenizer would prefer the directory's own code under `trust_remote_code=True`.
    """
    AutoConfig.register(BaichuanConfig.model_type, BaichuanConfig)
    AutoModel.register(BaichuanConfig, BaichuanModel)
    AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM)
    AutoModelForSequenceClassification.register(BaichuanConfig, BaichuanForSequenceClassification)
    for name in ("BaichuanTokenizer", "BaiChuanTokenizer"):
        REGISTERED_TOKENIZER_CLASSES[name] = BaichuanTokenizer
    never_run_remote_tokenizers()
