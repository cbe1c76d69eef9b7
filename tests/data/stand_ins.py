"""A tokenizer and specs small enough to compute token ids by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

USER, ASSISTANT, EOS = 195, 196, 2


class LetterTokenizer:
    """One id a character: its code point. EOS is 2."""

    eos_token_id = EOS
    pad_token_id = 0

    def encode(
        self, text: str, add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> list[int]:
        assert split_special_tokens and not add_special_tokens
        return [ord(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


TOKENIZER: Any = LetterTokenizer()
ROLES: Any = {
    "chat_style": "role-tokens",
    "turns": None,
    "user_token_id": USER,
    "assistant_token_id": ASSISTANT,
}
V2: Any = SimpleNamespace(name="v2", eos_after_answer=False, system_style="raw", **ROLES)
V1_13B: Any = SimpleNamespace(name="v1", eos_after_answer=True, system_style="none", **ROLES)
