"""Conversations as token ids with training labels, which follow the fine-tune.py of the Baichuan2
repository; prompts and answers are those of `rlhf.models.prompts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf.data import chat_moss, chat_turns
from rlhf.data.encoded import IGNORED, Encoded
from rlhf.data.records import Message
from rlhf.models.prompts import (
    encode_prompt,
    encode_response,
    encode_system,
    encode_text,
    eos_id,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.models.spec import ModelSpec

__all__ = ["IGNORED", "Encoded", "encode_conversation", "encode_prompt", "encode_response"]


def encode_conversation(
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    max_length: int | None = None,
) -> Encoded:
    """A whole conversation with its training labels.

    The assistant's text is learnt, and that EOS follows it. v2 has no EOS between turns: the label
    sits on the next user token. v1-13B-Chat (`spec.eos_after_answer`) reads its EOS as well.

    Args:
        messages: an optional system message, then alternating turns that end with the assistant.
        max_length: ids beyond it are cut off on the right; None for no limit.

    Raises:
        ValueError: a system message for a model that has no place for one.
    """
    if spec.chat_style == "moss":
        return chat_moss.encode_conversation(tokenizer, messages, max_length)
    if spec.turns is not None:
        return chat_turns.encode_conversation(spec.turns, tokenizer, messages, max_length)
    eos = eos_id(tokenizer)
    system = encode_system(spec, tokenizer, messages)
    input_ids, labels = list(system), [IGNORED] * len(system)
    answered = False
    for message in messages:
        if message.role == "system":
            continue
        text = encode_text(spec, tokenizer, message.content)
        if message.role == "user":
            input_ids += [spec.user_token_id, *text]
            labels += [eos if answered else IGNORED] + [IGNORED] * len(text)
            answered = False
        else:
            end = [eos] if spec.eos_after_answer else []
            input_ids += [spec.assistant_token_id, *text, *end]
            labels += [IGNORED, *text, *end]
            answered = not spec.eos_after_answer
    if answered:
        input_ids.append(eos)
        labels.append(eos)
    return Encoded(input_ids[:max_length], labels[:max_length])
