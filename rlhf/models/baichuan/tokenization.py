"""The family's tokenizer over `tokenizer.model` (sentencepiece)."""

from __future__ import annotations

import json
import re
from itertools import compress, groupby
from pathlib import Path
from typing import Any

from transformers import BatchEncoding
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend
from transformers.utils import logging

logger = logging.get_logger(__name__)
# sentencepiece writes a space as this character, so a real one has to be spelt in bytes.
SPACE_PIECE = "\u2581"
SPACE_PIECE_BYTES = [f"<0x{byte:02X}>" for byte in SPACE_PIECE.encode()]


class BaichuanTokenizer(SentencePieceBackend):
    """Adds no BOS or EOS; characters outside the vocabulary go through byte pieces and come back.

    Whether a space is put in front (Baichuan) or not (Baichuan 2) is written in `tokenizer.model`.
    U+2581, which sentencepiece by itself takes for a space, is spelt in bytes; where a space is put
    in front, what follows that character has one too, and comes back with it.
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str,
        unk_token: str = "<unk>",
        bos_token: str = "<s>",
        eos_token: str = "</s>",
        pad_token: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("auto_map", None)  # the directory's own code is never run, nor named when saved
        kwargs["added_tokens_decoder"] = added = dict(kwargs.get("added_tokens_decoder") or {})
        for index in _outside_embedding(added, Path(vocab_file).parent / "config.json"):
            token = added.pop(index).content
            pad_token = None if token == str(pad_token) else pad_token
            logger.warning("token %s has id %d, outside the embedding: left out", token, index)
        super().__init__(
            vocab_file=vocab_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=unk_token if pad_token is None else pad_token,
            **kwargs,
        )

    @property
    def has_dummy_prefix(self) -> bool:
        """Whether a space comes in front of every text."""
        return self.tokenize("a")[0].startswith(SPACE_PIECE)

    def _encode_plus(  # type: ignore[override]
        self, text: Any, text_pair: Any = None, **options: Any
    ) -> BatchEncoding:
        """As the base class, which takes ids for texts that are encoded already."""
        single = text_pair is None and not options.get("is_split_into_words")
        if single and isinstance(text, list) and all(isinstance(each, str) for each in text):
            split = options.get("split_special_tokens", self.split_special_tokens)
            text = self._encode_plain(text, split_special_tokens=bool(split))
        encoding: BatchEncoding = super()._encode_plus(text, text_pair, **options)
        return encoding

    def _encode_plain(
        self, texts: list[str], *, split_special_tokens: bool
    ) -> list[str | list[int]]:
        """Ids where a text has no added token or U+2581 in it, by sentencepiece on all cores."""
        apart = {SPACE_PIECE, *(() if split_special_tokens else self._added_tokens_encoder)}
        plain = [bool(text) and not any(token in text for token in apart) for text in texts]
        found = iter(self.sp_model.encode(list(compress(texts, plain)), num_threads=-1))
        return [
            next(found) if at_once else text for text, at_once in zip(texts, plain, strict=True)
        ]

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        pieces: list[str] = []
        for part in re.split(f"({SPACE_PIECE})", text):
            if part == SPACE_PIECE:
                pieces.extend(SPACE_PIECE_BYTES)
            elif part:
                pieces.extend(self.sp_model.encode(part, out_type=str))
        return pieces

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """As the base class, but sentencepiece looks a whole list up at once: data is long."""
        if isinstance(tokens, str):
            return super().convert_tokens_to_ids(tokens)
        added, ids = self._added_tokens_encoder, self.sp_model.piece_to_id(list(tokens))
        return [added.get(token, index) for token, index in zip(tokens, ids, strict=True)]

    def _convert_id_to_token(self, index: int) -> str:
        """Ids of embedding rows that the tokenizer has no piece for are unknown, not an error."""
        known = index < self.sp_model.get_piece_size()
        return str(self.sp_model.IdToPiece(index) if known else self.unk_token)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Joins pieces; special and added tokens stand for themselves, without spaces around."""
        text = []
        for added, group in groupby(tokens, key=self._added_tokens_encoder.__contains__):
            run = list(group)
            text.append("".join(run) if added else self.sp_model.decode_pieces(run))
        return "".join(text)


def _outside_embedding(added: dict[int, Any], config_file: Path) -> list[int]:
    """Ids that the model beside the tokenizer has no row for: Baichuan2-7B-Chat ships one."""
    if not added or not config_file.is_file():
        return []
    rows = json.loads(config_file.read_text(encoding="utf-8")).get("vocab_size")
    return [index for index in added if rows is not None and index >= rows]
