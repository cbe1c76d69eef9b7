"""Conversations as MOSS-003 reads them: the meta instruction, then turns of five parts.

    <|Human|>: ...<eoh>
    <|Inner Thoughts|>: None<eot>
    <|Commands|>: None<eoc>
    <|Results|>: None<eor>
    <|MOSS|>: ...<eom>

Parts and labels follow finetune_moss.py and the sft data of the MOSS repository, where a turn that
uses no plugin says "None". The names of parts are plain text, their ends special tokens, which
nothing written in a message can become.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf.data.encoded import IGNORED, Encoded
from rlhf.data.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = "<|MOSS|>:"
RESULTS = "<|Results|>:"
BEFORE_RESULTS = (("<|Inner Thoughts|>:", "<eot>"), ("<|Commands|>:", "<eoc>"))
UNUSED = "None"


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_length: int | None = None
) -> list[int]:
    """Ids up to `<|MOSS|>:`; arguments and what is left out as in `chat_format.encode_prompt`."""
    meta = _meta(tokenizer, messages)
    rounds = [encoded.input_ids for encoded in _rounds(tokenizer, messages)]
    kept = [*rounds.pop(), *_text(tokenizer, ANSWER)]
    while rounds and (max_length is None or len(meta) + len(rounds[-1]) + len(kept) <= max_length):
        kept = rounds.pop() + kept
    ids = meta + kept
    return ids if max_length is None else ids[-max_length:]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_length: int | None = None
) -> Encoded:
    """All is learnt, questions too, but the meta instruction and what stands in the results.

    As officially, rounds that do not fit into max_length are left out whole, the newest first.
    """
    meta = _meta(tokenizer, messages)
    input_ids, labels = list(meta), [IGNORED] * len(meta)
    for encoded in _rounds(tokenizer, messages):
        if max_length is not None and len(input_ids) + len(encoded.input_ids) > max_length:
            break
        input_ids += encoded.input_ids
        labels += encoded.labels
    return Encoded(input_ids[:max_length], labels[:max_length])


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A complete answer up to `<eom>`. The space after the colon belongs to what is sampled."""
    spaced = text if text.startswith(" ") else f" {text}"
    return [*_text(tokenizer, spaced), _special(tokenizer, "<eom>")]


def _rounds(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Encoded]:
    """A question with its unused plugins, and its answer if there is one."""
    rounds: list[Encoded] = []
    for message in messages:
        if message.role == "user":
            rounds.append(_question(tokenizer, message.content))
        elif message.role == "assistant":
            ids = _text(tokenizer, ANSWER) + encode_response(tokenizer, message.content)
            ids += _text(tokenizer, "\n")
            question = rounds[-1]
            rounds[-1] = Encoded(question.input_ids + ids, question.labels + ids)
    return rounds


def _question(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    asked = _part(tokenizer, "<|Human|>:", text, "<eoh>")
    for name, end in BEFORE_RESULTS:
        asked += _part(tokenizer, name, UNUSED, end)
    asked += _text(tokenizer, RESULTS)
    results = _text(tokenizer, f" {UNUSED}")
    after = [_special(tokenizer, "<eor>"), *_text(tokenizer, "\n")]
    return Encoded(asked + results + after, asked + [IGNORED] * len(results) + after)


def _part(tokenizer: PreTrainedTokenizerBase, name: str, text: str, end: str) -> list[int]:
    ids = _text(tokenizer, f"{name} {text}")
    return [*ids, _special(tokenizer, end), *_text(tokenizer, "\n")]


def _meta(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    return _text(tokenizer, messages[0].content) if messages[0].role == "system" else []


def _text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _special(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int), "one token has one id"
    return token_id
