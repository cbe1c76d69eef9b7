"""The parts of a turn as MOSS-003 reads them, after its meta instruction.

    <|Human|>: ...<eoh>
    <|Inner Thoughts|>: None<eot>
    <|Commands|>: None<eoc>
    <|Results|>: None<eor>
    <|MOSS|>: ...<eom>

They follow the README and the sft data of the MOSS repository, where a turn that uses no plugin
says "None". The names of parts are plain text, their ends special tokens, which nothing written in
a message can become.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.models.prompts import Turn

HUMAN = ("<|Human|>:", "<eoh>")
THOUGHTS = ("<|Inner Thoughts|>:", "<eot>")
COMMANDS = ("<|Commands|>:", "<eoc>")
RESULTS = ("<|Results|>:", "<eor>")
ANSWER = ("<|MOSS|>:", "<eom>")
UNUSED = "None"


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn], max_length: int | None = None
) -> list[int]:
    """Ids up to `<|MOSS|>:`; arguments and what is left out as in `prompts.encode_prompt`."""
    system = encode_system(tokenizer, messages)
    rounds: list[list[int]] = []
    for message in messages:
        if message.role == "user":
            rounds.append(encode_question(tokenizer, message.content))
        elif message.role == "assistant":
            rounds[-1] += encode_answer(tokenizer, message.content)
    newest = [*rounds.pop(), *encode_text(tokenizer, ANSWER[0])]
    return fitting(system, rounds, newest, max_length)


def fitting(
    system: Sequence[int],
    earlier: Sequence[Sequence[int]],
    newest: Sequence[int],
    max_length: int | None,
) -> list[int]:
    """The meta instruction, as many of the latest earlier rounds as fit, and the newest round."""
    rounds, kept = list(earlier), list(newest)
    while rounds and (
        max_length is None or len(system) + len(rounds[-1]) + len(kept) <= max_length
    ):
        kept = [*rounds.pop(), *kept]
    ids = [*system, *kept]
    return ids if max_length is None else ids[-max_length:]


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A complete answer up to `<eom>`. The space after the colon belongs to what is sampled."""
    spaced = text if text.startswith(" ") else f" {text}"
    return [*encode_text(tokenizer, spaced), special_id(tokenizer, ANSWER[1])]


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The answer's whole part, and the line's end."""
    name, response = encode_text(tokenizer, ANSWER[0]), encode_response(tokenizer, text)
    return [*name, *response, *encode_text(tokenizer, "\n")]


def encode_question(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """What comes before `<|MOSS|>:` in a turn that uses no plugin."""
    asked = encode_up_to_results(tokenizer, text)
    return [*asked, *encode_text(tokenizer, f" {UNUSED}"), *end_of(tokenizer, RESULTS)]


def encode_up_to_results(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A question that uses no plugin, up to `<|Results|>:`."""
    ids = encode_part(tokenizer, HUMAN, text)
    for part in (THOUGHTS, COMMANDS):
        ids += encode_part(tokenizer, part, UNUSED)
    return ids + encode_text(tokenizer, RESULTS[0])


def encode_part(tokenizer: PreTrainedTokenizerBase, part: tuple[str, str], text: str) -> list[int]:
    """One part of a turn, and the line's end."""
    return [*encode_text(tokenizer, f"{part[0]} {text}"), *end_of(tokenizer, part)]


def end_of(tokenizer: PreTrainedTokenizerBase, part: tuple[str, str]) -> list[int]:
    """The token that ends a part, and the line's end."""
    return [special_id(tokenizer, part[1]), *encode_text(tokenizer, "\n")]


def encode_system(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn]) -> list[int]:
    """Ids of the meta instruction that comes first, none without one."""
    return encode_text(tokenizer, messages[0].content) if messages[0].role == "system" else []


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text alone, whatever is written in it."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def special_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of a special token."""
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int), "one token has one id"
    return token_id
