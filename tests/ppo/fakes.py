"""Four small roles with weights of their own, and a reward that is a function of the tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM, BaichuanForSequenceClassification
from rlhf.models.role_base import Learner, Roles, Scorer, Speaker
from rlhf.ops.masking import positions

PAD, EOS = 0, 2
Score = Callable[[Tensor, Tensor], Tensor]


def _config(vocabulary: int) -> BaichuanConfig:
    return BaichuanConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        position_embedding="rope",
        norm_head=False,
        initializer_range=0.3,
    )


class FakeRoles(Roles):
    """The production interface. score: input_ids, attention_mask [B, T] -> [B]."""

    def __init__(self, score: Score, vocabulary: int = 16) -> None:
        tokenizer: Any = SimpleNamespace(pad_token_id=PAD, eos_token_id=EOS)
        spec: Any = None
        super().__init__(spec, tokenizer)
        torch.manual_seed(0)
        self.actor = BaichuanForCausalLM(_config(vocabulary)).eval()
        self.reference = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic = BaichuanForSequenceClassification(_config(vocabulary)).eval()
        self.score = score

    def language_model(self, role: Speaker) -> AbstractContextManager[BaichuanForCausalLM]:
        return nullcontext(self.actor if role == "actor" else self.reference)

    def token_scores(
        self, role: Scorer, input_ids: Tensor, attention_mask: Tensor, states_to_keep: int = 0
    ) -> Tensor:
        places = positions(attention_mask)
        return self.critic.token_scores(input_ids, attention_mask, places, states_to_keep)

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.score(input_ids, attention_mask)

    def trainable(self, role: Learner) -> Mapping[str, nn.Parameter]:
        return dict((self.actor if role == "actor" else self.critic).named_parameters())

    def frozen(self) -> Iterable[tuple[str, Tensor]]:
        return self.reference.named_parameters()

    def whole(self, role: Learner) -> PreTrainedModel:
        return self.actor if role == "actor" else self.critic

    def compile(self) -> None:
        """Not needed at this size."""

    def enable_gradient_checkpointing(self) -> None:
        for model in (self.actor, self.critic):
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()


def count_of(token: int) -> Score:
    """A score that likes one token: how often a sequence holds it."""

    def score(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return ((input_ids == token) & attention_mask).sum(dim=1).float()

    return score
