"""Prompts as token ids, the way the official Baichuan code builds them.

A turn is its role's token followed by its text; there is no BOS. Prompts follow `build_chat_input`
of Baichuan2-Chat's generation_utils.py.

Unlike there, a text is never more than text: `</s>` or `<reserved_106>` written in a message ends
no answer and opens no turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from rlhf.models import turns
from rlhf.models.moss import prompts as moss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.models.spec import ModelSpec


class Turn(Protocol):
    """role: system, user or assistant."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


def encode_prompt(
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    max_length: int | None = None,
) -> list[int]:
    """Token ids that the model continues with its answer: system, rounds, the assistant's token.

    When max_length is given, the oldest whole rounds that do not fit are left out; if the newest
    round alone is too long, ids are cut off on the left, so that the end of the question stays.

    Args:
        messages: an optional system message, then alternating turns that end with the user.
        max_length: the most ids to return; None for no limit.

    Raises:
        ValueError: a system message for a model that has no place for one.
    """
    if spec.chat_style == "moss":
        return moss.encode_prompt(tokenizer, messages, max_length)
    if spec.turns is not None:
        return turns.encode_prompt(spec.turns, tokenizer, messages, max_length)
    system = encode_system(spec, tokenizer, messages)
    rounds = [_encode_round(spec, tokenizer, each) for each in _rounds(messages)]
    history = rounds.pop()
    # As officially, the assistant's token is not counted: a history that just fits loses one id.
    while rounds and (
        max_length is None or len(system) + len(history) + len(rounds[-1]) <= max_length
    ):
        history = rounds.pop() + history
    ids = [*system, *history, spec.assistant_token_id]
    return ids if max_length is None else ids[-max_length:]


def encode_response(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, text: str, ended: bool = True
) -> list[int]:
    """An answer: its text and EOS. It follows what `encode_prompt` returns.

    ended: False for one that was stopped at its length. It never said that it was finished, so it
    has no EOS.
    """
    if spec.chat_style == "moss":
        ids = moss.encode_response(tokenizer, text)
    elif spec.turns is not None:
        ids = turns.encode_response(tokenizer, text)
    else:
        ids = [*encode_text(spec, tokenizer, text), eos_id(tokenizer)]
    return ids if ended else ids[:-1]


def encode_system(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn]
) -> list[int]:
    """Ids of the system message that comes first, none without one; ValueError where the model
    has no place for it."""
    if messages[0].role != "system":
        return []
    if spec.system_style == "none":
        raise ValueError(
            f"{spec.name} has no place for a system message; put its text into the first user turn"
        )
    return encode_text(spec, tokenizer, messages[0].content)


def encode_text(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text alone, without the ids of roles and special tokens whatever is written in it.

    Special tokens belong to the tokenizer's wrapper, which can leave them out. The role tokens are
    pieces of tokenizer.model, which always finds them: there they are spelt in byte pieces, which
    read back as the same characters.
    """
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    roles = (spec.user_token_id, spec.assistant_token_id)
    return [plain for i in ids for plain in (_spelt(tokenizer, i) if i in roles else [i])]


def eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends an answer."""
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int), "the tokenizers of these families have an EOS token"
    return eos


def _rounds(messages: Sequence[Turn]) -> list[list[Turn]]:
    rounds: list[list[Turn]] = []
    for message in messages:
        if message.role == "user":
            rounds.append([message])
        elif message.role == "assistant":
            rounds[-1].append(message)
    return rounds


def _encode_round(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn]
) -> list[int]:
    ids: list[int] = []
    for turn in messages:
        text = encode_text(spec, tokenizer, turn.content)
        if turn.role == "user":
            ids += [spec.user_token_id, *text]
        else:
            ids += [spec.assistant_token_id, *text]
            ids += [eos_id(tokenizer)] if spec.eos_after_answer else []
    return ids


def _spelt(tokenizer: PreTrainedTokenizerBase, token_id: int) -> list[int]:
    written = str(tokenizer.convert_ids_to_tokens(token_id)).encode()
    ids = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in written])
    assert isinstance(ids, list), "a list of pieces has a list of ids"
    return ids
