"""AutoTokenizer for the native families, whatever code a checkpoint's directory brings."""

from __future__ import annotations

from functools import wraps
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import tokenization_auto


def never_run_remote_tokenizers() -> None:
    """From now on a directory of a native family has the native tokenizer, whatever it names.

    transformers prefers a registered class to the file that `auto_map` names only where
    `tokenizer_class` has the registered name. Elsewhere `trust_remote_code=True` would run that
    file, so it is taken out of what AutoTokenizer reads.
    """
    read = tokenization_auto.get_tokenizer_config

    @wraps(read)
    def get_tokenizer_config(path: Any, **kwargs: Any) -> dict[str, Any]:
        settings: dict[str, Any] = read(path, **kwargs)
        if "auto_map" in settings:
            fields, _ = PreTrainedConfig.get_config_dict(path, **kwargs)
            family = fields.get("model_type", "")
            native: Any = CONFIG_MAPPING[family] if family in CONFIG_MAPPING else None
            if native is not None and native.__module__.startswith("rlhf."):
                del settings["auto_map"]
                settings["tokenizer_class"] = native.tokenizer_class
        return settings

    tokenization_auto.get_tokenizer_config = get_tokenizer_config  # type: ignore[assignment]
