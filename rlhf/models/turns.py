"""Chat formats that are told by what is written between the texts, such as ChatML and Llama 3's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.models.prompts import Turn

TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ BEFORE_SYSTEM + message['content'] + AFTER_SYSTEM }}
{%- elif message['role'] == 'user' -%}
{{ OPENING if loop.first else QUESTION if loop.previtem['role'] == 'assistant' else '' }}
{{- message['content'] }}
{%- else -%}
{{ ANSWER + message['content'] }}{{ eos_token if loop.last else '' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ANSWER }}{%- endif -%}
"""


@dataclass(frozen=True)
class Turns:
    """Special tokens count as such in what is written here, never in the texts.

    opening: in front of the first question where no system message is.
    answer: between a question and its answer.
    question: between an answer and the next question. It starts with EOS, which ends an answer.
    before_system, after_system: around a system message, up to the first question; None where the
        format has no place for one.
    before_text: in front of text without a format; None for nothing. The tokenizer writes nothing
        there itself, as it would write it in front of a template's text too.
    """

    opening: str
    answer: str
    question: str
    before_system: str | None = None
    after_system: str | None = None
    before_text: str | None = None

    @property
    def template(self) -> str:
        """As Jinja, over messages, eos_token and add_generation_prompt."""
        written = {name.upper(): repr(part or "") for name, part in vars(self).items()}
        # At once: what is written may itself say QUESTION.
        return re.sub("|".join(written), lambda found: written[found[0]], TEMPLATE)


def encode_prompt(
    turns: Turns,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    max_length: int | None = None,
) -> list[int]:
    """Ids up to the answer; arguments and what is left out as in `prompts.encode_prompt`."""
    texts = [encode_text(tokenizer, each.content) for each in messages if each.role != "system"]
    answer, question = (encode_written(tokenizer, part) for part in (turns.answer, turns.question))
    start = encode_start(turns, tokenizer, messages)
    prompt = [*texts.pop(), *answer]
    while texts:
        longer = [*texts[-2], *answer, *texts[-1], *question, *prompt]
        if max_length is not None and len(start) + len(longer) > max_length:
            break
        prompt = longer
        del texts[-2:]
    ids = start + prompt
    return ids if max_length is None else ids[-max_length:]


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A complete answer: its text and EOS."""
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int), "the end of an answer was made EOS when the model was imported"
    return [*encode_text(tokenizer, text), eos]


def encode_start(
    turns: Turns, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn]
) -> list[int]:
    """What comes before the first question; ValueError for a system message without a place."""
    if messages[0].role != "system":
        return encode_written(tokenizer, turns.opening)
    if turns.before_system is None or turns.after_system is None:
        raise ValueError(
            "this model's chat format has no place for a system message; put its text into the "
            "first user turn"
        )
    before, after = turns.before_system, turns.after_system
    return [
        *encode_written(tokenizer, before),
        *encode_text(tokenizer, messages[0].content),
        *encode_written(tokenizer, after),
    ]


def encode_written(tokenizer: PreTrainedTokenizerBase, part: str) -> list[int]:
    """Ids of a part of the format, special tokens included."""
    return list(tokenizer.encode(part, add_special_tokens=False))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text alone, whatever is written in it."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
