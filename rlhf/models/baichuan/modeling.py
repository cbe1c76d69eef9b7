"""Baichuan and Baichuan 2, 7B and 13B: the language model and the reward model."""

from __future__ import annotations

import torch
from torch import nn
from transformers import GenerationMixin

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.decode import SlotDecoder
from rlhf.models.baichuan.head import NormHead
from rlhf.models.baichuan.trunk import BaichuanModel, BaichuanPreTrainedModel
from rlhf.models.language_model import LanguageModel
from rlhf.models.reward_model import RewardModel, ScoreHead


class BaichuanForCausalLM(LanguageModel, BaichuanPreTrainedModel, GenerationMixin):
    """Language model with the plain or the normalised head, and the Max-z loss."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        sizes = (config.hidden_size, config.vocab_size)
        self.lm_head = NormHead(*sizes) if config.norm_head else nn.Linear(*sizes, bias=False)
        self.vocab_size = config.vocab_size
        self.post_init()

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Keeps the kind of head: `resize_token_embeddings` hands over a plain linear layer."""
        if self.config.norm_head and not isinstance(new_embeddings, NormHead):
            head = NormHead(new_embeddings.in_features, new_embeddings.out_features, device="meta")
            head.weight = new_embeddings.weight
            new_embeddings = head
        self.lm_head = new_embeddings

    def head_weight(self) -> torch.Tensor:
        """[V, H]: logits are the hidden states times this, whatever the head."""
        if isinstance(self.lm_head, NormHead):
            return self.lm_head.normalised_weight()
        weight: torch.Tensor = self.lm_head.weight
        return weight

    def slot_decoder(self, slots: int, capacity: int) -> SlotDecoder:
        """For the slot engine of `rlhf.generation`: this many sequences, of so many tokens each."""
        return SlotDecoder(self, slots, capacity)

    def slot_bytes(self, capacity: int) -> int:
        """What one slot takes: a key and a value of every layer and token."""
        config = self.config
        return 2 * config.num_hidden_layers * config.hidden_size * capacity * self.dtype.itemsize


class BaichuanForSequenceClassification(RewardModel, BaichuanPreTrainedModel):
    """Reward model: one score, read at the last real token of each sequence."""

    _keys_to_ignore_on_load_unexpected = [
        *BaichuanPreTrainedModel._keys_to_ignore_on_load_unexpected,
        r"^lm_head\.",
    ]

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 1
        self.model = BaichuanModel(config)
        self.score = ScoreHead(config.hidden_size, self.num_labels)
        self.post_init()
