"""New tokens one by one while a model generates."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer


class _Queue(BaseStreamer):
    """What `generate` tells of: the prompt, then token after token."""

    def __init__(self) -> None:
        self.items: SimpleQueue[int | BaseException | None] = SimpleQueue()
        self.prompt_is_over = False

    def put(self, value: Tensor) -> None:
        if self.prompt_is_over:
            self.items.put(int(value))
        self.prompt_is_over = True

    def end(self) -> None:
        """Only the thread knows whether `generate` came to a good end."""


class _Closed(StoppingCriteria):
    """Stops at the next token once nobody listens."""

    def __init__(self) -> None:
        self.event = Event()

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return input_ids.new_full((len(input_ids),), self.event.is_set(), dtype=torch.bool)


def stream_tokens(
    model: PreTrainedModel,
    prompt: Sequence[int],
    generation_config: GenerationConfig,
    ends: Sequence[int],
) -> Generator[int]:
    """The model's continuation of `prompt`, with the one of `ends` that it stops at.

    `generate` runs in a thread of its own, which closing the iterator ends. What it raises is
    raised here.
    """
    queue, closed = _Queue(), _Closed()
    input_ids = torch.tensor([list(prompt)], device=model.device)
    config = copy.deepcopy(generation_config)
    # One row is never padded, but generate wants to know with what.
    config.eos_token_id, config.pad_token_id = list(ends), ends[0]
    own: Any = model.generation_config
    if config.top_k is None and (config.do_sample or own.do_sample):
        config.top_k = own.top_k or 0  # all tokens: generate itself would leave 50
    decode: Any = model.generate  # a mixin's method, which PreTrainedModel's type does not show

    def work() -> None:
        try:
            decode(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=config,
                streamer=queue,
                stopping_criteria=StoppingCriteriaList([closed]),
            )
            queue.items.put(None)
        except BaseException as error:
            queue.items.put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := queue.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.event.set()
        thread.join()
