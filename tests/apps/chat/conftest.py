"""Tiny models that say what a script tells them, and ones that speak for themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.apps.chat.command import Sampling, open_conversation
from rlhf.apps.chat.conversation import Conversation
from tests.models.moss.conftest import write_checkpoint as write_moss


class Script:
    """In the place of `model.generate`: what to say, one text a call, and the prompts it got.

    context: the tokens that the model is said to read; letters are tokens here, so many.
    """

    def __init__(
        self, conversation: Conversation, said: Sequence[str], context: int = 8192
    ) -> None:
        self.tokenizer = conversation.tokenizer
        self.said = list(said)
        self.ids: list[list[int]] = []
        self.config: Any = None
        conversation.model.config.model_max_length = context
        setattr(conversation.model, "generate", self)  # noqa: B010  (a method of its class)

    @property
    def prompts(self) -> list[str]:
        return [str(self.tokenizer.decode(ids)) for ids in self.ids]

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> None:
        self.ids.append(input_ids[0].tolist())
        self.config = options["generation_config"]
        options["streamer"].put(input_ids)
        for token in self.tokenizer.encode(self.said.pop(0)):
            options["streamer"].put(torch.tensor([token]))


@pytest.fixture
def opened(
    checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> Callable[..., Conversation]:
    def open_it(architecture: str = "baichuan2-7b", **options: Any) -> Conversation:
        moss = architecture == "moss"
        path = write_moss(tmp_path / "moss") if moss else checkpoint(architecture)
        return open_conversation(path, **({"sampling": Sampling()} | options))

    return open_it
