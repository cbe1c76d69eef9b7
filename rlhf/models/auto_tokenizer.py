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
        if "auto_map" in settings or not settings.get("tokenizer_class"):
            native = _native_tokenizer(path, **kwargs)
            if native is not None:
                settings.pop("auto_map", None)
                settings["tokenizer_class"] = native
        return settings

    tokenization_auto.get_tokenizer_config = get_tokenizer_config  # type: ignore[assignment]


def _native_tokenizer(path: Any, **kwargs: Any) -> str | None:
    """The class's name where the model beside the tokenizer is of a native family."""
    try:
        fields, _ = PreTrainedConfig.get_config_dict(path, **kwargs)
    except OSError:  # a tokenizer by itself
        return None
    family = fields.get("model_type", "")
    native: Any = CONFIG_MAPPING[family] if family in CONFIG_MAPPING else None
    ours = native is not None and native.__module__.startswith("rlhf.")
    return native.tokenizer_class if ours else None
