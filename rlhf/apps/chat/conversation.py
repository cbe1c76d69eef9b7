"""A conversation with a model: what was said so far, and the next answer piece by piece."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from transformers import GenerationConfig, PreTrainedTokenizerBase

from rlhf.apps.chat import plugins
from rlhf.data.records import Message, PluginUse
from rlhf.models.chat import Conversational, context_length, growing_text, prompt_room
from rlhf.models.moss import prompts as moss
from rlhf.models.prompts import encode_prompt
from rlhf.models.registry import spec_of
from rlhf.models.streaming import stream_tokens


class Piece(NamedTuple):
    """The next characters. aside: thoughts, commands and results, no part of the answer."""

    text: str
    aside: bool = False


@dataclass
class Conversation:
    """Rounds that are asked and answered.

    config: how to sample, as `answer_config` gives it.
    system: the system message, "" for none.
    rounds: user and assistant in turn.
    name: what the model is called where several answer.
    """

    model: Conversational
    tokenizer: PreTrainedTokenizerBase
    config: GenerationConfig
    system: str = ""
    rounds: list[Message] = field(default_factory=list)
    name: str = ""

    @property
    def messages(self) -> list[Message]:
        """With the system message, as the model reads it."""
        system = [Message(role="system", content=self.system)] if self.system else []
        return [*system, *self.rounds]

    def check(self) -> None:
        """Raises ValueError where this model takes no system message, or has room for no prompt."""
        self._room()
        system = [turn for turn in self.messages if turn.role == "system"]
        question = Message(role="user", content="?")
        encode_prompt(spec_of(self.model.config), self.tokenizer, [*system, question])

    def ask(self, question: str) -> Iterator[Piece]:
        """The answer as it comes. A round is kept once something was answered, also cut short."""
        asked, answer = Message(role="user", content=question), ""
        messages = [turn.model_dump() for turn in [*self.messages, asked]]
        try:
            growing = self.model.chat(
                self.tokenizer, messages, stream=True, generation_config=self.config
            )
            for grown in map(str.lstrip, growing):
                piece, answer = grown[len(answer) :], grown
                yield Piece(piece)
        finally:
            self._keep(asked, answer)

    def save(self, file: Path) -> None:
        """Adds the conversation to `file`, a line of JSON that `rlhf data convert` reads."""
        record = ",".join(turn.model_dump_json(exclude_none=True) for turn in self.messages)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f'{{"messages":[{record}]}}\n')

    def _room(self) -> int:
        new: int = self.config.max_new_tokens  # which answer_config sets
        return prompt_room(context_length(self.model), new)

    def _keep(self, asked: Message, answer: str, use: PluginUse | None = None) -> None:
        if answer.strip():
            self.rounds += [asked, Message(role="assistant", content=answer, plugins=use)]


@dataclass
class MossConversation(Conversation):
    """MOSS reads what it can use after the system message. With plugins it writes commands up to
    `<eoc>`, reads their results, and answers.

    enabled: the plugins it may call.
    """

    enabled: Sequence[plugins.Plugin] = ()

    @property
    def messages(self) -> list[Message]:
        if not self.system and not self.enabled:
            return list(self.rounds)
        start = f"{self.system.rstrip()}\n" if self.system else ""
        content = start + plugins.switches(self.enabled)
        return [Message(role="system", content=content), *self.rounds]

    def ask(self, question: str) -> Iterator[Piece]:
        return self._ask_with_plugins(question) if self.enabled else super().ask(question)

    def _ask_with_plugins(self, question: str) -> Iterator[Piece]:
        asked, answer, use = Message(role="user", content=question), "", None
        try:
            newest = moss.encode_part(self.tokenizer, moss.HUMAN, question)
            written: list[int] = []
            for piece in self._continue(newest, written):
                yield Piece(piece, aside=True)
            if written and written[-1] == moss.special_id(self.tokenizer, moss.COMMANDS[1]):
                use = self._use_plugins(str(self.tokenizer.decode(written)))
                newest += [*written, *self._encode_results(use)]
                yield Piece(f"\n{moss.RESULTS[0]} {use.results}\n", aside=True)
            else:  # it did not keep to its format, and answers without plugins
                newest = moss.encode_question(self.tokenizer, question)
                yield Piece("\n", aside=True)
            newest += moss.encode_text(self.tokenizer, moss.ANSWER[0])
            for piece in self._continue(newest, []):
                piece = piece if answer else piece.lstrip()
                answer += piece
                yield Piece(piece)
        finally:
            self._keep(asked, answer, use)

    def _continue(self, newest: Sequence[int], written: list[int]) -> Iterator[str]:
        """What MOSS writes next, to the end of its commands or of its answer.

        newest: the round so far.
        written: takes the ids.
        """
        system = moss.encode_system(self.tokenizer, self.messages)
        rounds = [moss.encode_round(self.tokenizer, each) for each in moss.rounds_of(self.rounds)]
        prompt = moss.fitting(system, rounds, newest, self._room())
        ends = [moss.special_id(self.tokenizer, part[1]) for part in (moss.ANSWER, moss.COMMANDS)]

        def tokens() -> Iterator[int]:
            for token in stream_tokens(self.model, prompt, self.config, ends):
                written.append(token)
                yield token

        shown = ""
        for grown in growing_text(self.tokenizer, tokens(), ends):
            piece, shown = grown[len(shown) :], grown
            yield piece

    def _use_plugins(self, written: str) -> PluginUse:
        thoughts, commands = (_part(written, part) for part in (moss.THOUGHTS, moss.COMMANDS))
        results = plugins.call(commands, self.enabled)
        return PluginUse(inner_thoughts=thoughts, commands=commands, results=results)

    def _encode_results(self, use: PluginUse) -> list[int]:
        """What follows the end of the commands."""
        before = moss.encode_text(self.tokenizer, f"\n{moss.RESULTS[0]}")
        results = moss.encode_results(self.tokenizer, use.results)
        return [*before, *results, *moss.end_of(self.tokenizer, moss.RESULTS)]


def _part(written: str, part: tuple[str, str]) -> str:
    """What MOSS wrote between a part's name and its end, or that it wrote nothing there."""
    name, end = map(re.escape, part)
    found = re.search(rf"{name}(.*?)(?:{end}|$)", written, re.DOTALL)
    return (found[1].strip() if found else "") or moss.UNUSED
