"""Llama models in GGUF, llama.cpp's file format: what is in the file, and its tokenizer.

The weights are read by transformers, which dequantises them. It makes tokenizers as well, but with
GPT-2's rules of splitting for vocabularies that have their own, so ours are built here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, processors
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split
from transformers import PreTrainedTokenizerFast

# Llama 3's own, from its tokenizer.json.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens; all others are pieces of text
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def read_gguf(file: Path) -> dict[str, Any]:
    """The file's key-value pairs, for a Llama whose rotary positions are plain.

    Raises ValueError for a damaged file and for other architectures. Llama 3.1 and later keep a
    factor for each frequency as a tensor, which transformers does not read.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ValueError(
            "reading GGUF needs one more package: pip install 'baichuan-rlhf[gguf]'"
        ) from None
    try:
        reader = GGUFReader(file)
    except (ValueError, LookupError, OSError):
        raise ValueError(f"{file}: no GGUF file, or truncated; copy the file again") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields.get("general.architecture") != "llama":
        raise ValueError(
            f"{file}: the architecture is {fields.get('general.architecture')}; only Llama can be "
            "re-laid"
        )
    scaled = fields.get("llama.rope.scaling.type", "none") != "none"
    if scaled or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise ValueError(
            f"{file}: its rotary positions are scaled, which is not read from GGUF; import the "
            "directory that it was made from"
        )
    return fields


def gguf_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The file's byte-level BPE; ValueError for other kinds, and for rules of splitting not known
    here."""
    fields = read_gguf(file)
    kind, rule = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    splitting = _splitting(str(rule)) if kind == "gpt2" else None
    if splitting is None:
        raise ValueError(
            f"{file}: a tokenizer of the kind {kind} / {rule} is not read from GGUF; import the "
            "directory that it was made from"
        )
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    whole = rule == "llama-bpe"  # Llama 3 takes a word that is a token as it is
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=whole))
    backend.pre_tokenizer, backend.decoder = splitting, decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type") or []
    backend.add_special_tokens(_added(tokens, kinds, CONTROL))
    backend.add_tokens(_added(tokens, kinds, USER_DEFINED))
    ids = {name: fields.get(f"tokenizer.ggml.{word}_token_id") for name, word in SPECIAL.items()}
    special = {f"{name}_token": tokens[index] for name, index in ids.items() if index is not None}
    if fields.get("tokenizer.ggml.add_bos_token"):
        bos = special["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, ids["bos"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=fields.get("tokenizer.chat_template"), **special
    )


def _splitting(rule: str) -> PreTokenizer | None:
    """How text is split into words, by llama.cpp's name for it."""
    if rule == "gpt-2":
        return ByteLevel(add_prefix_space=False)
    if rule == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    if rule == "llama-bpe":
        words = Split(Regex(LLAMA_3), behavior="isolated")
        return Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    return None


def _added(tokens: list[str], kinds: list[int], wanted: int) -> list[AddedToken]:
    pairs = zip(tokens, kinds, strict=True) if kinds else ()
    special = wanted == CONTROL
    return [AddedToken(t, special=special, normalized=False) for t, k in pairs if k == wanted]
