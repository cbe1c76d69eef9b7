"""The parts of a turn as MOSS-003 reads them, after its meta instruction.

    <|Human|>: ...<eoh>
    <|Inner Thoughts|>: None<eot>
    <|Commands|>: None<eoc>
    <|Results|>: None<eor>
    <|MOSS|>: ...<eom>

They follow the README and the sft data of the MOSS repository, where a turn that uses no plugin
says "None", and results stand on lines of their own. The names of parts are plain text, their ends
special tokens, which nothing written in a message can become.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.models.prompts import Turn

HUMAN = ("<|Human|>:", "<eoh>")
THOUGHTS = ("<|Inner Thoughts|>:", "<eot>")
COMMANDS = ("<|Commands|>:", "<eoc>")
RESULTS = ("<|Results|>:", "<eor>")
ANSWER = ("<|MOSS|>:", "<eom>")
UNUSED = "None"


class PluginUse(Protocol):
    """What stands between a question and its answer."""

    @property
    def inner_thoughts(self) -> str: ...
    @property
    def commands(self) -> str: ...
    @property
    def results(self) -> str: ...


class NoPlugins(NamedTuple):
    """A turn that uses none."""

    inner_thoughts: str = UNUSED
    commands: str = UNUSED
    results: str = UNUSED


NO_PLUGINS = NoPlugins()


class Round(NamedTuple):
    """A question, its answer, and what stands between; the newest may have no answer yet."""

    question: str
    answer: str = ""
    plugins: PluginUse = NO_PLUGINS


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn], max_length: int | None = None
) -> list[int]:
    """Ids up to `<|MOSS|>:`; arguments and what is left out as in `prompts.encode_prompt`."""
    system = encode_system(tokenizer, messages)
    *answered, last = rounds_of(messages)
    rounds = [encode_round(tokenizer, each) for each in answered]
    newest = [*encode_question(tokenizer, last.question), *encode_text(tokenizer, ANSWER[0])]
    return fitting(system, rounds, newest, max_length)


def rounds_of(messages: Sequence[Turn]) -> list[Round]:
    """The questions in order, each with what follows it; the meta instruction is left out."""
    rounds: list[Round] = []
    for message in messages:
        if message.role == "user":
            rounds.append(Round(message.content))
        elif message.role == "assistant":
            # Records may carry them; a plain chat turn does not.
            plugins = getattr(message, "plugins", None) or NO_PLUGINS
            rounds[-1] = rounds[-1]._replace(answer=message.content, plugins=plugins)
    return rounds


def encode_round(tokenizer: PreTrainedTokenizerBase, each: Round) -> list[int]:
    """A whole round: question, what plugins did, and answer."""
    asked = encode_question(tokenizer, each.question, each.plugins)
    return [*asked, *encode_answer(tokenizer, each.answer)]


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


def encode_question(
    tokenizer: PreTrainedTokenizerBase, text: str, plugins: PluginUse = NO_PLUGINS
) -> list[int]:
    """What comes before `<|MOSS|>:` in a turn."""
    return [
        *encode_up_to_results(tokenizer, text, plugins),
        *encode_results(tokenizer, plugins.results),
        *end_of(tokenizer, RESULTS),
    ]


def encode_up_to_results(
    tokenizer: PreTrainedTokenizerBase, text: str, plugins: PluginUse = NO_PLUGINS
) -> list[int]:
    """A question and how plugins were called, up to `<|Results|>:`."""
    ids = encode_part(tokenizer, HUMAN, text)
    ids += encode_part(tokenizer, THOUGHTS, plugins.inner_thoughts)
    ids += encode_part(tokenizer, COMMANDS, plugins.commands)
    return ids + encode_text(tokenizer, RESULTS[0])


def encode_results(tokenizer: PreTrainedTokenizerBase, results: str) -> list[int]:
    """What stands between `<|Results|>:` and `<eor>`."""
    return encode_text(tokenizer, f" {UNUSED}" if results == UNUSED else f"\n{results}\n")


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
