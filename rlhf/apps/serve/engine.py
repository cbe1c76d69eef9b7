"""Answers to requests, one request after the other."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from anyio import CancelScope
from anyio.to_thread import run_sync
from transformers import GenerationConfig

from rlhf.apps.chat.command import Sampling, Speaker
from rlhf.apps.serve.protocol import ChatMessage, ChatRequest, CompletionRequest, Refused
from rlhf.models.chat import answer_config, answer_ends, check_turns, context_length, text_so_far
from rlhf.models.prompts import encode_prompt
from rlhf.models.streaming import stream_tokens
from rlhf.models.turns import encode_written


class Piece(NamedTuple):
    """The next characters, maybe none, of the answer of that number.

    tokens: sampled for this answer so far, with the one that ends it.
    finish: on the last piece, whether the answer came to its end or to its limit.
    """

    choice: int
    text: str
    tokens: int
    finish: Literal["stop", "length"] | None = None


@dataclass(frozen=True)
class Job:
    """prompt: token ids; config: how to sample, with the limit of new tokens.

    chat: answers of a conversation start with their first character that is no space.
    """

    prompt: Sequence[int]
    config: GenerationConfig
    stops: Sequence[str]
    seed: int | None
    answers: int
    chat: bool


class Engine:
    """The model that answers. A request waits for those before it: they would share one device, and
    a seed could not be kept.

    leaving: whether the server is being stopped.

    Raises ValueError where the checkpoint says a way to sample that is none.
    """

    def __init__(self, speaker: Speaker) -> None:
        # A request's temperature draws tokens by whatever else the checkpoint says.
        self.speaker, self.own = speaker, answer_config(speaker.model, drawn=True)
        self.leaving: Callable[[], bool] = lambda: False
        self.turn, self.reading = asyncio.Lock(), asyncio.Lock()
        # Prompts are read while another thread decodes: a fast tokenizer is no thing for both.
        self.reader = copy.deepcopy(speaker.tokenizer)
        self.longest_token = max(map(len, self.reader.get_vocab()))

    async def job(self, request: ChatRequest | CompletionRequest) -> Job:
        """What a request asks for. Raises Refused where this model cannot do it."""
        async with self.reading:
            return await run_sync(self._read, request)

    def _read(self, request: ChatRequest | CompletionRequest) -> Job:
        self._check_size(request)
        try:
            if isinstance(request, ChatRequest):
                prompt = self._dialogue(request.messages)
            else:
                prompt = self._text(request.prompt)
        except ValueError as error:
            raise Refused(str(error), param=request.prompt_field) from None
        return Job(
            prompt=prompt,
            config=self._config(request, len(prompt)),
            stops=request.stop,
            seed=request.seed,
            answers=request.n,
            chat=isinstance(request, ChatRequest),
        )

    async def pieces(self, job: Job, gone: Callable[[], Awaitable[bool]]) -> AsyncGenerator[Piece]:
        """The answers in turn, as they come; nothing more once the client has `gone` or the server
        is leaving."""
        async with self.turn:
            written = self._write(job)
            try:
                while not self.leaving() and not await gone():
                    piece = await run_sync(next, written, None)
                    if piece is None:
                        return
                    yield piece
            finally:
                # A server without patience left cancels this while the thread is still at a token,
                # where no other can close it.
                with CancelScope(shield=True), suppress(ValueError):
                    await run_sync(written.close)

    def _write(self, job: Job) -> Generator[Piece]:
        if job.seed is None:
            torch.seed()
        else:
            torch.manual_seed(job.seed)
        for choice in range(job.answers):
            yield from self._answer(job, choice)

    def _answer(self, job: Job, choice: int) -> Iterator[Piece]:
        model, tokenizer = self.speaker.model, self.speaker.tokenizer
        ends, drawn, shown = answer_ends(self.speaker.spec, tokenizer), list[int](), 0
        with closing(stream_tokens(model, job.prompt, job.config, ends)) as stream:
            for text in text_so_far(tokenizer, _noting(stream, drawn), ends):
                text = text.lstrip() if job.chat else text
                if (stop := _stop(text, job.stops)) is not None:
                    yield Piece(choice, text[shown:stop], len(drawn), "stop")
                    return
                safe = len(text) - _held(text, job.stops)
                yield Piece(choice, text[shown:safe], len(drawn))
                shown = max(shown, safe)
        finish: Literal["stop", "length"] = "stop" if drawn[-1] in ends else "length"
        yield Piece(choice, text[shown:], len(drawn), finish)

    def _dialogue(self, messages: Sequence[ChatMessage]) -> list[int]:
        """As `rlhf chat` builds it, but nothing is left out. A blank system message is none."""
        check_turns(messages)
        first = messages[0]
        system = (first.content.strip() and first.content) if first.role == "system" else None
        spoken = messages if system is None else messages[1:]
        before = self.speaker.conversation(Sampling(), system).messages
        return encode_prompt(self.speaker.spec, self.reader, [*before, *spoken])

    def _text(self, text: str) -> list[int]:
        turns = self.speaker.spec.turns
        start = encode_written(self.reader, (turns and turns.before_text) or "")
        ids = [*start, *self.reader.encode(text, split_special_tokens=True)]
        if not ids:
            raise ValueError("the prompt is empty")
        return ids

    def _check_size(self, request: ChatRequest | CompletionRequest) -> None:
        """Raises Refused for what would take long to read, and cannot fit however it is read."""
        context, texts = context_length(self.speaker.model), len(request.texts)
        characters = sum(map(len, request.texts))
        if texts > context or characters > context * self.longest_token:
            size = f"{texts} messages" if texts > context else f"{characters} characters"
            raise Refused(
                f"this model reads {context} tokens in all, too few for {size}; shorten the prompt",
                param=request.prompt_field,
                code="context_length_exceeded",
            )

    def _config(self, request: ChatRequest | CompletionRequest, prompt: int) -> GenerationConfig:
        context = context_length(self.speaker.model)
        room, wanted = context - prompt, request.limit
        if room < (wanted or 1):
            answer = f" and {wanted} of the answer" if wanted else ", which leaves none to answer"
            raise Refused(
                f"this model reads {context} tokens in all: the prompt has {prompt}{answer}; "
                "shorten the prompt or ask for fewer",
                param=request.prompt_field,
                code="context_length_exceeded",
            )
        return Sampling(
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            repetition_penalty=request.repetition_penalty,
            max_new_tokens=wanted or min(self.own.max_new_tokens, room),
        ).over(self.own)


def _noting(tokens: Iterator[int], drawn: list[int]) -> Iterator[int]:
    for token in tokens:
        drawn.append(token)
        yield token


def _stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the strings begins that end an answer."""
    return min((text.index(stop) for stop in stops if stop in text), default=None)


def _held(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may be the beginning of such a string."""
    starts = (
        stop[:length] for stop in stops for length in range(1, min(len(stop) - 1, len(text)) + 1)
    )
    return max((len(start) for start in starts if text.endswith(start)), default=0)
