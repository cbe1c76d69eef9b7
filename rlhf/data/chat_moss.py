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
    """All is learnt, questions too, but the meta instruction and what stands in the results.

    As officially, rounds that do not fit into max_length are left out whole, the newest first.
    """
    system = prompts.encode_system(tokenizer, messages)
    input_ids, labels = list(system), [IGNORED] * len(system)
    for encoded in _rounds(tokenizer, messages):
        if max_length is not None and len(input_ids) + len(encoded.input_ids) > max_length:
            break
        input_ids += encoded.input_ids
        labels += encoded.labels
    return Encoded(input_ids[:max_length], labels[:max_length])


def _rounds(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Encoded]:
    """A question with its unused plugins, and its answer if there is one."""
    rounds: list[Encoded] = []
    for message in messages:
        if message.role == "user":
            rounds.append(_question(tokenizer, message.content))
        elif message.role == "assistant":
            ids = prompts.encode_answer(tokenizer, message.content)
            question = rounds[-1]
            rounds[-1] = Encoded(question.input_ids + ids, question.labels + ids)
    return rounds


def _question(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    asked = prompts.encode_up_to_results(tokenizer, text)
    results = prompts.encode_text(tokenizer, f" {prompts.UNUSED}")
    after = prompts.end_of(tokenizer, prompts.RESULTS)
    return Encoded(asked + results + after, asked + [IGNORED] * len(results) + after)
