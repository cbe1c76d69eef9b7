"""`model.chat(tokenizer, messages)` and `model.quantize(bits)`, as the official Baichuan code."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.models.prompts import Turn, encode_prompt, eos_id
from rlhf.models.quantise import move_scales, quantise
from rlhf.models.registry import spec_of
from rlhf.models.sampling import FILE, check_sampling
from rlhf.models.spec import ModelSpec
from rlhf.models.streaming import stream_tokens

# For a checkpoint whose generation_config.json does not say it.
MAX_NEW_TOKENS = 512
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class ChatTurn(NamedTuple):
    """What is said, and by whom: system, user or assistant."""

    role: str
    content: str


class Conversational(PreTrainedModel):
    """A language model that answers."""

    @overload
    def chat(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Mapping[str, str]],
        stream: Literal[False] = False,
        generation_config: GenerationConfig | None = None,
    ) -> str: ...
    @overload
    def chat(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Mapping[str, str]],
        stream: Literal[True],
        generation_config: GenerationConfig | None = None,
    ) -> Iterator[str]: ...

    def chat(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Mapping[str, str]],
        stream: bool = False,
        generation_config: GenerationConfig | None = None,
    ) -> str | Iterator[str]:
        """The answer to the last message, in the model's own chat format.

        Args:
            messages: `{"role": ..., "content": ...}`: an optional system message, then alternating
                turns that end with the user. The oldest rounds that do not fit are left out.
            stream: give the answer so far, again and again as it grows.
            generation_config: instead of the checkpoint's.

        Raises:
            ValueError: a message without role or content, messages in another order, a system
                message for a model that has no place for one, a way to sample that is none, or no
                room for a prompt beside max_new_tokens.
        """
        spec, config = spec_of(self.config), answer_config(self, generation_config)
        turns = [_turn(number, message) for number, message in enumerate(messages)]
        check_turns(turns)
        prompt = encode_prompt(
            spec, tokenizer, turns, prompt_room(context_length(self), config.max_new_tokens)
        )
        ends = answer_ends(spec, tokenizer)
        tokens = stream_tokens(self, prompt, config, ends)
        if stream:
            return growing_text(tokenizer, tokens, ends)
        return visible_text(tokenizer, list(tokens), ends)

    def quantize(self, bits: int) -> Conversational:
        """This model, its trunk's weights in 4 or 8 bits from now on, by bitsandbytes.

        As if it had been loaded so. Raises ValueError for other numbers of bits, for a model that
        is quantised already, and without bitsandbytes.
        """
        quantise(self, bits)
        return self

    def adjust_generation_fn(self, *args: Any, **options: Any) -> None:
        """As the base class, which would run `custom_generate` where the caller trusts it."""
        options["trust_remote_code"] = False
        super().adjust_generation_fn(*args, **options)  # type: ignore[misc]

    def cuda(self, device: int | torch.device | None = None) -> Any:  # type: ignore[override]
        """transformers refuses to move 8-bit weights by this name, though not by `to`."""
        return nn.Module.cuda(self, device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """All that moves a model comes by here."""
        moved = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if getattr(self, "is_loaded_in_8bit", False):
            move_scales(self)
        return moved


def answer_config(
    model: PreTrainedModel,
    generation_config: GenerationConfig | None = None,
    drawn: bool = False,
) -> GenerationConfig:
    """The checkpoint's way to sample, or the one given, with a limit of new tokens in any case.

    drawn: whether tokens may be drawn where it does not say so.
    Raises ValueError for one that cannot be sampled by.
    """
    own: Any = model.generation_config
    config = copy.deepcopy(generation_config or own)
    file = str(Path(model.name_or_path or "", FILE))
    name = "generation_config" if generation_config else file
    check_sampling(config, name, int(model.config.vocab_size), drawn)
    config.max_new_tokens = (
        config.max_new_tokens
        or own.max_new_tokens
        or min(MAX_NEW_TOKENS, context_length(model) // 2)
    )
    return config


def prompt_room(context: int, max_new_tokens: int) -> int:
    """How many ids a prompt may have beside the new tokens; ValueError where none."""
    if max_new_tokens >= context:
        raise ValueError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt: this model reads "
            f"{context} tokens in all; choose fewer, such as {context // 2}"
        )
    return context - max_new_tokens


def answer_ends(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end an answer: EOS, and where roles have tokens, the user's next turn."""
    users = [spec.user_token_id] if spec.chat_style == "role-tokens" else []
    return [eos_id(tokenizer), *users]


def growing_text(
    tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int], ends: Sequence[int]
) -> Iterator[str]:
    """The text of all tokens so far, each time that it has grown."""
    shown = ""
    for text in text_so_far(tokenizer, tokens, ends):
        if len(text) > len(shown):
            shown = text
            yield text


def text_so_far(
    tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int], ends: Sequence[int]
) -> Iterator[str]:
    """After each token the text up to it, whether or not it has grown; at the end the whole.

    A character is held back until all of its bytes are there, at the end none is.
    """
    seen: list[int] = []
    for token in tokens:
        seen.append(token)
        yield visible_text(tokenizer, seen, ends).rstrip(INCOMPLETE)
    yield visible_text(tokenizer, seen, ends)


def visible_text(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], ends: Sequence[int]
) -> str:
    """The text of an answer without what ends it."""
    kept = tokens[:-1] if tokens and tokens[-1] in ends else tokens
    return str(tokenizer.decode(list(kept), skip_special_tokens=True))


def context_length(model: PreTrainedModel) -> int:
    """How many tokens it reads, the answer included."""
    return int(model.config.model_max_length)


def _turn(number: int, message: Mapping[str, str]) -> ChatTurn:
    """One of the messages; ValueError where it is no role with a text."""
    found = [message.get(key) if isinstance(message, Mapping) else None for key in ChatTurn._fields]
    role, content = found
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(
            f'messages[{number}]: {message!r:.80}; give {{"role": "user", "content": "..."}}'
        )
    return ChatTurn(role, content)


def check_turns(turns: Sequence[Turn]) -> None:
    """Raises ValueError unless they are an optional system message, then user and assistant in
    turn, the user last."""
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    wanted = ["user", "assistant"] * len(spoken)
    if not spoken or len(spoken) % 2 == 0 or spoken != wanted[: len(spoken)]:
        raise ValueError(
            f"messages: roles {', '.join(roles) or 'none'}; give an optional system message, then "
            "user and assistant in turn, the user last"
        )
