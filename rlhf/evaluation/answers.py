"""Answers of a model to prompts of people: chat format, sampling, and back to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.schema import SamplingSection
from rlhf.data.chat_format import encode_prompt
from rlhf.data.records import PromptRecord
from rlhf.generation import Completion, generate
from rlhf.models.spec import ModelSpec


@dataclass(frozen=True)
class Answerer:
    """A model with what it takes to talk to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: ModelSpec

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
            [encode_prompt(self.spec, self.tokenizer, prompt.messages) for prompt in prompts],
            sampling,
            pad_id=self.tokenizer.pad_token_id,
            eos_id=self.tokenizer.eos_token_id,
            generator=generator,
            batch_size=batch_size,
        )

    def text(self, completion: Completion) -> str:
        """What a person reads of a completion."""
        text = self.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        assert isinstance(text, str), "one sequence decodes to one text"
        return text
