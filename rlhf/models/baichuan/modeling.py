"""Baichuan and Baichuan 2, 7B and 13B: the language model and the reward model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.head import NormHead
from rlhf.models.baichuan.trunk import BaichuanModel, BaichuanPreTrainedModel
from rlhf.models.max_z import max_z_of_microbatch
from rlhf.models.reward_model import RewardModel


class BaichuanForCausalLM(BaichuanPreTrainedModel, GenerationMixin):
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

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """labels: [B, T], -100 where there is no loss
        logits_to_keep: how many last positions (0: all), or their indices

        The loss is the mean cross-entropy over the labels, plus z_loss_weight times Max-z.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
            if self.config.z_loss_weight:
                loss = loss + self.config.z_loss_weight * max_z_of_microbatch(
                    logits, labels, attention_mask, kwargs.get("num_items_in_batch")
                )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


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
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()
