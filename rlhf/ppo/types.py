"""What an iteration makes: a `Rollout`, then an `Experience`.

The index convention, once for all of `rlhf.ppo`. A sequence is a prompt, padded on the left to P
columns, and its response y_0 .. y_{R-1}, padded on the right to R; T = P + R:

    column   0 ... P-1 | P    P+1  ...  T-1
    holds      prompt  | y_0  y_1  ...  y_{R-1}

Every [B, R] tensor is indexed by the response token that its entry belongs to. Token r stands at
column P + r. It was chosen in the state "prompt, y_0 .. y_{r-1}", whose last column is P + r - 1,
so there the model's outputs about it are read:

- logprobs[:, r] from the logits at column P + r - 1: `actor_logits(..., keep=R)[:, r]`
- values[:, r], what the critic expects from that state on: `values(...)[:, P + r - 1]`, which is
  entry r of the last R + 1
- rewards[:, r] is what choosing token r earned. The score lands on the last real token, which is
  EOS when the response ended by itself, and the one that completes the string when it ended by a
  stop string: the response mask includes both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from rlhf.generation import Completion


@dataclass(frozen=True)
class Sequences:
    """Prompts and responses, side by side as the convention above says.

    input_ids: [B, T] int64.
    attention_mask: [B, T] boolean, True on real tokens.
    response_mask: [B, R] boolean, True on real response tokens, EOS included.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor

    @property
    def prompt_width(self) -> int:
        return self.input_ids.shape[1] - self.response_mask.shape[1]

    @property
    def response_ids(self) -> Tensor:
        """[B, R] int64."""
        return self.input_ids[:, self.prompt_width :]

    @property
    def lengths(self) -> Tensor:
        """[B] real tokens of prompt and response together."""
        return self.attention_mask.sum(dim=1)

    def widths(self, unit: int) -> Tensor:
        """Columns of what is padded by itself: [B, 1] of the row, for models that move rows to the
        left and round their widths up to a multiple of `unit`, else, for unit 0, [B, 2] of the
        prompt and of the response."""
        if unit:
            return -(-self.lengths // unit)[:, None] * unit
        responses = self.response_mask.sum(dim=1)
        return torch.stack([self.lengths - responses, responses], dim=1)

    def states(self, per_column: Tensor) -> Tensor:
        """Read outputs [B, T], or no more than the last R + 1 of T, at the states that the response
        tokens were chosen in: [B, R]."""
        return per_column[:, -1 - self.response_mask.shape[1] : -1]

    def take(self, rows: Tensor) -> Self:
        """The rows [B'], without the columns that are padding in all of them."""
        prompt, response = self._kept_columns(rows)
        width = self.prompt_width
        columns = slice(width - prompt, width + response)
        return type(self)(
            input_ids=self.input_ids[rows, columns],
            attention_mask=self.attention_mask[rows, columns],
            response_mask=self.response_mask[rows, :response],
        )

    def _kept_columns(self, rows: Tensor) -> tuple[int, int]:
        """Width of the widest prompt and of the longest response among the rows."""
        prompts = self.attention_mask[rows, : self.prompt_width].sum(dim=1)
        return int(prompts.max()), int(self.response_mask[rows].sum(dim=1).max())


@dataclass(frozen=True)
class Rollout:
    """Sampled responses.

    sequences: B of them.
    scored: what the reward model reads, B in the same order; but for stop strings the same.
    engine_logprobs: [B, R] of the response tokens as the engine saw them.
    ended: [B] boolean; False for a response that was cut off at the length limit.
    completions: B, as the engine gave them.
    """

    sequences: Sequences
    scored: Sequences
    engine_logprobs: Tensor
    ended: Tensor
    completions: tuple[Completion, ...]


@dataclass(frozen=True)
class Experience:
    """What the update learns from; float32, fixed until the next rollout.

    old_logprobs, ref_logprobs, entropy, old_values: [B, R], by the models of the rollout.
    kl: [B, R] per-token estimate of the penalty's kind.
    scores: [B] raw, from the reward model.
    rewards, returns: [B, R].
    advantages: [B, R], whitened over the whole rollout batch when the config says so.
    """

    sequences: Sequences
    old_logprobs: Tensor
    ref_logprobs: Tensor
    entropy: Tensor
    old_values: Tensor
    scores: Tensor
    kl: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def mask(self) -> Tensor:
        """[B, R] boolean, True on real response tokens."""
        return self.sequences.response_mask

    def take(self, rows: Tensor) -> Experience:
        """The rows [B'], cut to the longest response among them."""
        sequences = self.sequences.take(rows)
        width = sequences.response_mask.shape[1]
        taken = {
            name: tensor[rows, :width] if tensor.dim() == 2 else tensor[rows]
            for name, tensor in self.tensors().items()
        }
        return Experience(sequences=sequences, **taken)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name, the sequences apart."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}
