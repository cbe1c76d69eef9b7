"""Conversations of MOSS-003 with training labels, which follow its finetune_moss.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf.data.encoded import IGNORED, Encoded
from rlhf.data.records import Message
from rlhf.models.moss import prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_length: int | None = None
) -> Encoded:
    """All is learnt: questions, thoughts, commands and answers; not the meta instruction, nor what
    stands in the results.

    As officially, rounds that do not fit into max_length are left out whole, the newest first.
    """
    system = prompts.encode_system(tokenizer, messages)
    input_ids, labels = list(system), [IGNORED] * len(system)
    for encoded in (_encode(tokenizer, each) for each in prompts.rounds_of(messages)):
        if max_length is not None and len(input_ids) + len(encoded.input_ids) > max_length:
            break
        input_ids += encoded.input_ids
        labels += encoded.labels
    return Encoded(input_ids[:max_length], labels[:max_length])


def _encode(tokenizer: PreTrainedTokenizerBase, each: prompts.Round) -> Encoded:
    asked = prompts.encode_up_to_results(tokenizer, each.question, each.plugins)
    results = prompts.encode_results(tokenizer, each.plugins.results)
    after = prompts.end_of(tokenizer, prompts.RESULTS)
    after += prompts.encode_answer(tokenizer, each.answer)
    return Encoded(asked + results + after, asked + [IGNORED] * len(results) + after)
