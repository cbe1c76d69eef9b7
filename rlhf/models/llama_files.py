"""What stands beside Llama's weights: the tokenizer, and the fields that older readers look for."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.models.baichuan.tokenization import BaichuanTokenizer
from rlhf.models.chat_template import adopt_turns, is_second_generation, read_turns, write_start
from rlhf.models.gguf import gguf_tokenizer
from rlhf.models.turns import Turns

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
ROLE_IDS = [195, 196]
# Bytes that UTF-8 has no use for, or pieces that a vocabulary keeps free.
ROLE_PIECE = r"<0xC[01]>|<reserved_\d+>"

# Of a chat template. An empty text has no prefix either.
CONTENT = "message['content']"
PREFIXED_CONTENT = f"(' ' + {CONTENT} if {CONTENT} else '')"


def save_llama_tokenizer(
    tokenizer: PreTrainedTokenizerBase, path: Path, turns: Turns | None = None
) -> None:
    """A tokenizer that came with an imported model as it is; the family's own as transformers'
    LlamaTokenizer, with tokenizer.model for those who read that.

    turns: the format of a model that reads text without one too; the tokenizer writes what is in
        front of that, as it did before it was imported.

    The same ids as the tokenizer's own for text without U+2581. With a dummy prefix (Baichuan-7B)
    the stock class leaves it out before a leading space or reserved token, as nothing in its rules
    can say otherwise; without one (Baichuan 2) there is no such exception. Nor does it put one
    behind a role token, so that the chat template writes that space: conversations have their ids.
    """
    if not isinstance(tokenizer, BaichuanTokenizer):
        imported = copy.deepcopy(tokenizer)
        write_start(imported, turns)
        imported.save_pretrained(str(path))
        return
    shutil.copyfile(str(tokenizer.vocab_file), path / "tokenizer.model")
    stock = LlamaTokenizer.from_pretrained(
        str(path),
        legacy=False,
        add_prefix_space=tokenizer.has_dummy_prefix,
        add_bos_token=False,
        add_eos_token=False,
        pad_token=tokenizer.pad_token,
    )
    stock.add_tokens(list(tokenizer.added_tokens_decoder.values()), special_tokens=True)
    stock.chat_template = tokenizer.chat_template
    if tokenizer.has_dummy_prefix:
        stock.chat_template = str(tokenizer.chat_template).replace(CONTENT, PREFIXED_CONTENT)
    stock.save_pretrained(str(path))


def import_tokenizer(source: Path) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """The tokenizer of a Llama checkpoint, and the configuration's fields that say its chat format.

    From tokenizer.model: Llama's vocabulary starts with the 256 bytes at id 3, so that the family's
    role ids 195 and 196 are the bytes C0 and C1, which no UTF-8 text holds: they become the role
    tokens, in Baichuan 2's format where the chat template is that, else in the first generation's.
    Else from tokenizer.json or a GGUF file: as it is, with the format of its chat template.

    Raises ValueError where there is neither.
    """
    if (source / "tokenizer.model").is_file():
        own: BaichuanTokenizer = BaichuanTokenizer.from_pretrained(str(source))
        roles = own.convert_ids_to_tokens(ROLE_IDS)
        if all(re.fullmatch(ROLE_PIECE, role) for role in roles):
            second = is_second_generation(own, roles)
            own.add_special_tokens({"additional_special_tokens": roles})
            return own, {"chat_generation": 2 if second else None}
    if source.is_dir() and not (source / "tokenizer.json").is_file():
        raise ValueError(
            f"{source}: no tokenizer.json, nor a tokenizer.model with free bytes at 195 and 196; "
            "copy the whole checkpoint"
        )
    fast = _fast_tokenizer(source) if source.is_dir() else gguf_tokenizer(source)
    turns = read_turns(fast)
    adopt_turns(fast, turns)
    ids = {name: getattr(fast, name) for name in SPECIAL_IDS}
    return fast, {"chat_turns": asdict(turns), **ids}


def _fast_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """By its file, not by the class that its configuration names, which splits by other rules."""
    try:
        fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(source))
    except Exception:  # the library's own, without a class
        files = "tokenizer.json or tokenizer_config.json"
        raise ValueError(f"{source}: {files} damaged; copy them again") from None
    return fast


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
