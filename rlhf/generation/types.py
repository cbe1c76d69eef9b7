"""What a model answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from rlhf.generation.stops import said

StopReason = Literal["eos", "length", "stop"]


@dataclass(frozen=True)
class Completion:
    """One response.

    token_ids: the response, with the EOS or stop token that ended it, or up to the token that
        completed a stop string: choosing to end is an action of the policy like any other.
    logprobs: of those tokens, in nats, under the policy itself: temperature 1, nothing filtered or
        penalised, whatever the sampling was. PPO's training forward computes the same number.
    stop_reason: `eos`, `stop` (a stop string or one of the stop ids) or `length` (cut off).
    stop: the string that ended it, which its tokens say and a reader does not see; else None.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    stop: str | None = None

    @property
    def ended(self) -> bool:
        """False where it was cut off at its length."""
        return self.stop_reason != "length"

    def text(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """What a reader sees: the text before what stopped it, without special tokens."""
        by_token = self.stop_reason == "stop" and self.stop is None
        text = said(tokenizer, self.token_ids[:-1] if by_token else self.token_ids)
        return text if self.stop is None else text[: text.index(self.stop)]
