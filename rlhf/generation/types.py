"""What a model answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StopReason = Literal["eos", "length", "stop"]


@dataclass(frozen=True)
class Completion:
    """One response.

    token_ids: the response, with the EOS or stop token that ended it: choosing to end is an action
        of the policy like any other.
    logprobs: of those tokens, in nats, under the policy itself: temperature 1, nothing filtered or
        penalised, whatever the sampling was. PPO's training forward computes the same number.
    stop_reason: `eos`, `stop` (one of the stop ids) or `length` (cut off).
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason
