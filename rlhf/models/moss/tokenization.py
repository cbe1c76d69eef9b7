"""MOSS's tokenizer: GPT-2's byte-level BPE over `vocab.json` and `merges.txt`."""

from __future__ import annotations

import os
from typing import Any

from transformers import GPT2Tokenizer

END_OF_ANSWER = "<eom>"
END_OF_TEXT = "<|endoftext|>"
ENDS_OF_PARTS = ("<eoh>", "<eot>", "<eoc>", "<eor>")


class MossTokenizer(GPT2Tokenizer):
    """EOS is `<eom>`, which ends MOSS's answers, also where the base model's files say otherwise
    (as in the official finetune_moss.py). Padding is `<|endoftext|>`, so that no answer's end is
    taken for padding. What ends the other parts of a turn is special as well."""

    def __init__(
        self,
        vocab: str | dict[str, int] | None = None,
        merges: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("auto_map", None)  # the directory's own code is never run, nor named when saved
        for token in (kwargs.get("added_tokens_decoder") or {}).values():
            token.special |= token.content in ENDS_OF_PARTS  # added_tokens.json cannot say it
        kwargs |= {
            "eos_token": END_OF_ANSWER,
            "pad_token": END_OF_TEXT,
            "extra_special_tokens": list(ENDS_OF_PARTS),
        }
        super().__init__(vocab=vocab, merges=merges, **kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> tuple[str, ...]:
        """With vocab.json and merges.txt, which make a directory one of MOSS."""
        files: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        backend: Any = self._tokenizer
        return (*files, *backend.model.save(str(save_directory)))
