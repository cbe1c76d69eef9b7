"""What stands beside Llama's weights: the tokenizer, and the fields that older readers look for."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from transformers import LlamaTokenizer

from rlhf.models.baichuan.tokenization import SPACE_PIECE, BaichuanTokenizer

ROLE_IDS = [195, 196]
# Bytes that UTF-8 has no use for, or pieces that a vocabulary keeps free.
ROLE_PIECE = r"<0xC[01]>|<reserved_\d+>"


def save_llama_tokenizer(tokenizer: BaichuanTokenizer, path: Path) -> None:
    """tokenizer.json for transformers' LlamaTokenizer, and tokenizer.model for those who read that.

    The same ids as the tokenizer's own for text without U+2581. With a dummy prefix (Baichuan-7B)
    the stock class leaves it out before a leading space or reserved token, as nothing in its rules
    can say otherwise; without one (Baichuan 2) there is no such exception.
    """
    shutil.copyfile(str(tokenizer.vocab_file), path / "tokenizer.model")
    stock = LlamaTokenizer.from_pretrained(
        str(path),
        legacy=False,
        add_prefix_space=tokenizer.tokenize("a")[0].startswith(SPACE_PIECE),
        add_bos_token=False,
        add_eos_token=False,
        pad_token=tokenizer.pad_token,
    )
    stock.add_tokens(list(tokenizer.added_tokens_decoder.values()), special_tokens=True)
    stock.chat_template = tokenizer.chat_template
    stock.save_pretrained(str(path))


def import_tokenizer(source: Path, path: Path) -> BaichuanTokenizer | None:
    """The tokenizer of a Llama directory with role tokens; None where it cannot have them.

    Llama's vocabulary starts with the 256 bytes at id 3, so that the family's role ids 195 and 196
    are the bytes C0 and C1, which no UTF-8 text holds: they become the role tokens. Without a
    tokenizer.model, or with ordinary pieces at those ids, the files are copied as they are.
    """
    if (source / "tokenizer.model").is_file():
        tokenizer: BaichuanTokenizer = BaichuanTokenizer.from_pretrained(str(source))
        roles = tokenizer.convert_ids_to_tokens(ROLE_IDS)
        if all(re.fullmatch(ROLE_PIECE, role) for role in roles):
            tokenizer.add_special_tokens({"additional_special_tokens": roles})
            return tokenizer
    for file in source.glob("*token*"):  # tokenizer.json, special_tokens_map.json and their like
        if file.is_file():
            shutil.copyfile(file, path / file.name)
    return None


def name_rope_base(path: Path) -> None:
    """Adds `rope_theta` to config.json: transformers before 5 and others read it only there."""
    file = path / "config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    rope = fields["rope_parameters"]
    fields["rope_theta"] = rope["rope_theta"]
    fields["torch_dtype"] = fields["dtype"]
    if rope["rope_type"] != "default":
        fields["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    file.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
