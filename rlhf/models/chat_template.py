"""The chat format of a tokenizer from elsewhere, read off its chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from jinja2 import TemplateError
from transformers import AddedToken, PreTrainedTokenizerBase

from rlhf.models.turns import Turns

ROUNDS = ("user", "assistant", "user", "assistant")


def read_turns(tokenizer: PreTrainedTokenizerBase) -> Turns:
    """What its chat template writes between the texts; without a template, two special tokens that
    are free become the roles' tokens.

    Raises ValueError for a template that does more than that, and where no two tokens are free.
    """
    found = _of_template(tokenizer) if tokenizer.chat_template else _of_free_tokens(tokenizer)
    return replace(found, before_text=_start(tokenizer) or None)


def is_second_generation(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str]) -> bool:
    """Whether its chat template is Baichuan 2's: the roles' tokens, and EOS only at the end."""
    try:
        written = _between(tokenizer, ROUNDS) if tokenizer.chat_template else []
    except Exception:  # a template's own, such as a division by 0, or several without a default
        return False
    return written == [*roles, *roles, tokenizer.eos_token]


def adopt_turns(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> None:
    """Makes EOS what ends an answer, tokens of the format special, and padding something else than
    EOS where a token can be spared: padding's embedding is not trained. Text alone gets no special
    token any more: what a template writes has them already."""
    added = tokenizer.added_tokens_decoder
    end = tokenizer.encode(turns.question, add_special_tokens=False)[0]
    written = "".join(part for part in asdict(turns).values() if part)
    ordinary = [t.content for t in added.values() if not t.special and t.content in written]
    tokenizer.add_tokens([AddedToken(t, special=True) for t in ordinary], special_tokens=True)
    tokenizer.eos_token = added[end].content
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        spare = [tokenizer.unk_token, tokenizer.bos_token, *(t.content for t in added.values())]
        unused = (t for t in spare if t and t not in written)
        tokenizer.pad_token = next(unused, tokenizer.eos_token)
    tokenizer.add_bos_token = tokenizer.add_eos_token = False


def write_start(tokenizer: PreTrainedTokenizerBase, turns: Turns | None) -> None:
    """For readers of text alone: what the format has in front of it, BOS, is the tokenizer's again.

    A conversation's text, which begins with it, is then to be read without special tokens."""
    if turns is not None and turns.before_text:
        tokenizer.add_bos_token = True


def _of_template(tokenizer: PreTrainedTokenizerBase) -> Turns:
    try:
        opening, answer, question, again, end = _between(tokenizer, ROUNDS)
        _, generation = _between(tokenizer, ROUNDS[:1], add_generation_prompt=True)
    except (TemplateError, LookupError, TypeError):
        raise ValueError(_unreadable(tokenizer)) from None
    ends = [tokenizer.encode(part, add_special_tokens=False)[:1] for part in (question, end)]
    special = ends[0] and ends[0][0] in tokenizer.added_tokens_decoder
    # Some write a space here that they leave to the model when it is to answer.
    if not special or ends[0] != ends[1] or answer != again or answer.rstrip(" ") != generation:
        raise ValueError(_unreadable(tokenizer))
    try:
        before, after, _ = _between(tokenizer, ("system", "user"))
    except (TemplateError, LookupError):
        return Turns(opening, generation, question)
    return Turns(opening, generation, question, before, after)


def _between(
    tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], **options: Any
) -> list[str]:
    """One part more than there are roles; LookupError where a text is not written once, in turn."""
    texts = [f"[text {number}]" for number in range(len(roles))]
    messages = [{"role": r, "content": text} for r, text in zip(roles, texts, strict=True)]
    written = str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    if re.findall(r"\[text \d+\]", written) != texts:
        raise LookupError(written)
    return re.split(r"\[text \d+\]", written)


def _of_free_tokens(tokenizer: PreTrainedTokenizerBase) -> Turns:
    eos = tokenizer.eos_token
    taken = {eos, tokenizer.bos_token, tokenizer.unk_token, tokenizer.pad_token}
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    free = [token for token in added if token not in taken]
    if eos is None or len(free) < 2:
        raise ValueError(
            f"{tokenizer.name_or_path}: no chat_template, nor EOS and two special tokens more to "
            "make roles of; write a chat_template into tokenizer_config.json"
        )
    user, assistant = free[:2]
    start = _start(tokenizer)
    return Turns(start + user, assistant, str(eos) + user, start, user)


def _start(tokenizer: PreTrainedTokenizerBase) -> str:
    """BOS where the tokenizer writes it in front of a text."""
    bos = tokenizer.bos_token
    return str(bos) if bos and tokenizer.encode("")[:1] == [tokenizer.bos_token_id] else ""


def _unreadable(tokenizer: PreTrainedTokenizerBase) -> str:
    return (
        f"{tokenizer.name_or_path}: its chat_template does not write text after text, with a "
        "special token after each answer; write one that does into tokenizer_config.json"
    )
