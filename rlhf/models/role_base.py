"""The four roles of PPO, whatever weights stand behind them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.models.export import ADAPTER, save_adapter, save_checkpoint
from rlhf.models.spec import ModelSpec
from rlhf.models.spread import collected, own_part, spread_as
from rlhf.ops.masking import positions
from rlhf.ops.padding import to_the_right

Speaker = Literal["actor", "reference"]
Scorer = Literal["critic", "reward"]
Learner = Literal["actor", "critic"]


class Roles(ABC):
    """Actor, reference, critic and reward model.

    Nothing in them is random, for PPO compares two passes of one policy. B, T, V: batch, length,
    vocabulary. Attention masks are 1 or True on real tokens, with padding on either side.
    """

    def __init__(self, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self.spec = spec
        self.tokenizer = tokenizer

    @abstractmethod
    def language_model(self, role: Speaker) -> AbstractContextManager[PreTrainedModel]:
        """The model of a role, which it is only inside the context."""

    @abstractmethod
    def token_scores(
        self, role: Scorer, input_ids: Tensor, attention_mask: Tensor, states_to_keep: int = 0
    ) -> Tensor:
        """[B, T]: the score at every token, or at the last `states_to_keep` of T."""

    @abstractmethod
    def trainable(self, role: Learner) -> Mapping[str, nn.Parameter]:
        """The parameters that learn, by name, always in the same order."""

    @abstractmethod
    def frozen(self) -> Iterable[tuple[str, Tensor]]:
        """Every tensor of the reference and of the reward model."""

    @abstractmethod
    def whole(self, role: Learner) -> PreTrainedModel:
        """A plain model on its own, with whatever adapter the role has folded in."""

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass of the actor and the critic."""

    @abstractmethod
    def compile(self) -> None:
        """Compile every block, for passes without a cache, as all are but those that generate."""

    @property
    def width_unit(self) -> int:
        """Of the trunks, where they move padded rows to the left: a batch is then as wide as its
        longest row has real tokens, rounded up to a multiple of this. 0 where they do not."""
        with self.language_model("actor") as model:
            return getattr(model.base_model, "width_unit", 0)

    def adapted_actor(self) -> tuple[PeftModel, str] | None:
        """The model that has the actor's adapter, and its name; None where all weights learn."""
        return None

    def gathered(self, role: Learner) -> AbstractContextManager[None]:
        """Every process holds the role's whole weights in here, also where they are spread."""
        return nullcontext()

    def actor_logits(self, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
        """input_ids, attention_mask: [B, T] -> [B, keep, V], predicting the last `keep` tokens."""
        with self.language_model("actor") as model:
            return _predicting_logits(model, input_ids, attention_mask, keep)

    @torch.no_grad()
    def reference_logits(self, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
        """As `actor_logits`, of the frozen reference."""
        with self.language_model("reference") as model:
            return _predicting_logits(model, input_ids, attention_mask, keep)

    def values(self, input_ids: Tensor, attention_mask: Tensor, states_to_keep: int = 0) -> Tensor:
        """input_ids, attention_mask: [B, T] -> [B, T], the critic's estimate at every token, or at
        the last `states_to_keep` of T."""
        return self.token_scores("critic", input_ids, attention_mask, states_to_keep)

    @torch.no_grad()
    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: [B, T] -> [B], read at the last real token."""
        ids, mask = to_the_right(input_ids, attention_mask)
        # Two, for a compiled block is made anew for one, and breaks where attention asks for it.
        return self.token_scores("reward", ids, mask, states_to_keep=2)[:, -1]

    @contextmanager
    def generating(self) -> Iterator[PreTrainedModel]:
        """The actor as a model that generates: in evaluation mode, without gradients, and without
        a word to the other processes, which may be done earlier."""
        with torch.no_grad(), self.gathered("actor"), self.language_model("actor") as model:
            learning = model.training
            model.train(False)
            try:
                yield model
            finally:
                model.train(learning)

    def actor_parameters(self) -> list[nn.Parameter]:
        return list(self.trainable("actor").values())

    def critic_parameters(self) -> list[nn.Parameter]:
        return list(self.trainable("critic").values())

    def actor_state(self) -> dict[str, Tensor]:
        return _state(self.trainable("actor"))

    def critic_state(self) -> dict[str, Tensor]:
        return _state(self.trainable("critic"))

    def load_actor_state(self, state: Mapping[str, Tensor]) -> None:
        _load_state(self.trainable("actor"), state)

    def load_critic_state(self, state: Mapping[str, Tensor]) -> None:
        _load_state(self.trainable("critic"), state)

    def save_actor(self, path: str | Path) -> None:
        """A whole language model's directory, with the actor's adapter beside it, if it has one;
        for one process, where all are inside `gathered`."""
        save_checkpoint(self.whole("actor"), self.tokenizer, path)
        adapted = self.adapted_actor()
        if adapted is not None:
            save_adapter(*adapted, Path(path) / ADAPTER)

    def save_critic(self, path: str | Path) -> None:
        """A whole reward model's directory, whose score at a token is the critic's value; for one
        process, where all are inside `gathered`."""
        save_checkpoint(self.whole("critic"), self.tokenizer, path)

    def frozen_fingerprint(self) -> str:
        """sha256 of all that must not change, as far as this process holds it."""
        total = hashlib.sha256()
        for name, tensor in self.frozen():
            total.update(name.encode())
            raw = own_part(tensor.detach()).cpu().contiguous().view(-1).view(torch.uint8)
            total.update(raw.numpy().tobytes())
        return total.hexdigest()


def _predicting_logits(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, keep: int
) -> Tensor:
    length = input_ids.shape[1]
    if not 0 < keep < length:
        raise ValueError(f"keep = {keep} of {length} tokens: nothing predicts the first one")
    logits: Tensor = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        use_cache=False,
        logits_to_keep=slice(-1 - keep, -1),
    ).logits
    return logits


def _state(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: collected(p.detach().clone()) for name, p in parameters.items()}


@torch.no_grad()
def _load_state(parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    if parameters.keys() != state.keys():
        odd = sorted(parameters.keys() ^ state.keys())
        raise ValueError(
            f"the state is another model's: {odd[0]} is on one side only; start afresh"
        )
    for name, parameter in parameters.items():
        parameter.copy_(spread_as(state[name], parameter))
