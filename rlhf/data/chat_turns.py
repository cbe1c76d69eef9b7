"""Conversations in a chat format of `rlhf.models.turns`, with training labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf.data.encoded import IGNORED, Encoded
from rlhf.data.records import Message
from rlhf.models.turns import Turns, encode_response, encode_start, encode_text, encode_written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_conversation(
    turns: Turns,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    max_length: int | None = None,
) -> Encoded:
    """The answers are learnt, each with its EOS; arguments and errors as in `chat_format`."""
    answer, question = (encode_written(tokenizer, part) for part in (turns.answer, turns.question))
    input_ids = encode_start(turns, tokenizer, messages)
    labels = [IGNORED] * len(input_ids)
    for message in messages:
        if message.role == "assistant":
            written, text = answer, encode_response(tokenizer, message.content)
            labels += [IGNORED] * len(written) + text
        elif message.role == "user":
            # The answer before has brought its EOS already.
            written = question[1:] if labels[-1] != IGNORED else []
            text = encode_text(tokenizer, message.content)
            labels += [IGNORED] * (len(written) + len(text))
        else:
            continue
        input_ids += written + text
    return Encoded(input_ids[:max_length], labels[:max_length])
