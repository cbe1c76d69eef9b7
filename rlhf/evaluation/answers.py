"""Answers of a model to people's prompts, and a reward model's scores of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.schema import SamplingSection
from rlhf.data.chat_format import encode_prompt, encode_response
from rlhf.data.records import PromptRecord
from rlhf.generation import Completion, generate
from rlhf.models.chat import answer_ends, prompt_room
from rlhf.models.checkpoint import check_kind
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.registry import spec_of
from rlhf.models.scoring import score_responses
from rlhf.models.spec import ModelSpec
from rlhf.runtime.distributed import Runtime


@dataclass(frozen=True)
class Answer:
    """text: what a person reads. ended: False where it was cut off at its length."""

    text: str
    ended: bool = True


@dataclass(frozen=True)
class Answerer:
    """A language model with what it takes to talk to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: ModelSpec

    @classmethod
    def load(cls, path: str | Path, runtime: Runtime) -> Self:
        """From a checkpoint directory, on the run's device and in its type."""
        model = load_causal_lm(path, dtype=runtime.dtype, device=runtime.device)
        return cls(model, load_tokenizer(path), spec_of(path))

    def complete(
        self,
        prompts: Sequence[PromptRecord],
        sampling: SamplingSection,
        generator: torch.Generator,
        batch_size: int,
    ) -> list[Completion]:
        """One completion a prompt, in order."""
        return generate(
            self.model,
            self.asked(prompts, sampling),
            sampling,
            pad_id=self.tokenizer.pad_token_id,
            eos_id=self.tokenizer.eos_token_id,
            stop_ids=answer_ends(self.spec, self.tokenizer)[1:],
            generator=generator,
            batch_size=batch_size,
            tokenizer=self.tokenizer,
        )

    def asked(self, prompts: Sequence[PromptRecord], sampling: SamplingSection) -> list[list[int]]:
        """The ids that are answered; of a prompt that is too long beside the answer, as in
        `rlhf chat`, the oldest rounds are left out, then its beginning."""
        room = prompt_room(self.spec.context, sampling.max_new_tokens)
        return [encode_prompt(self.spec, self.tokenizer, each.messages, room) for each in prompts]

    def text(self, completion: Completion) -> str:
        """What a person reads of a completion."""
        return completion.text(self.tokenizer)

    def answer(self, completion: Completion) -> Answer:
        """What a judge is asked about."""
        return Answer(self.text(completion), completion.ended)


@dataclass(frozen=True)
class Scorer:
    """A reward model with what it takes to ask for its opinion of a text."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    spec: ModelSpec

    @classmethod
    def load(cls, path: str | Path, runtime: Runtime) -> Self:
        """From a reward model's directory, on the run's device and in its type.

        Raises ValueError for a language model's.
        """
        check_kind(path, "reward model")
        model = load_reward_model(path, dtype=runtime.dtype, device=runtime.device)
        return cls(model, load_tokenizer(path), spec_of(path))

    def scores(
        self, prompts: Sequence[PromptRecord], answers: Sequence[Answer], batch_size: int
    ) -> list[float]:
        """The score of each answer to its prompt, in order.

        Raises:
            ValueError: an answer that leaves no room for a prompt.
        """
        sequences = [self._read(*each) for each in zip(prompts, answers, strict=True)]
        return score_responses(self.model, sequences, self.tokenizer.pad_token_id, batch_size)

    def _read(self, prompt: PromptRecord, answer: Answer) -> list[int]:
        """Prompt and answer. As in the reward model's training, an answer that was cut off has no
        EOS; a prompt that is too long beside it is cut as `Answerer.asked` does."""
        context = self.spec.context
        response = encode_response(self.spec, self.tokenizer, answer.text, answer.ended)
        if len(response) >= context:
            raise ValueError(
                f"an answer to prompt {prompt.id} has {len(response)} tokens, and the reward model "
                f"reads {context} in all, the prompt's included; give shorter answers, or name a "
                "reward model that reads more"
            )
        room = context - len(response)
        return encode_prompt(self.spec, self.tokenizer, prompt.messages, room) + response
