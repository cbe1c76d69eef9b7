"""MOSS's language model, which is CodeGen's, and a reward model, which CodeGen lacks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CodeGenForCausalLM, CodeGenModel, CodeGenPreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from rlhf.models.max_z import max_z_of_microbatch
from rlhf.models.moss.configuration import MossConfig
from rlhf.models.reward_model import RewardModel

# The official checkpoints carry each layer's causal mask, which CodeGen works out anew.
MASKS = [r"attn\.causal_mask$", r"attn\.(masked_)?bias$"]


class MossModel(CodeGenModel):
    """The trunk alone."""

    config_class = MossConfig
    _keys_to_ignore_on_load_unexpected = [*MASKS, r"^lm_head\."]


class MossForCausalLM(CodeGenForCausalLM):
    """CodeGen's language model, with the Max-z loss."""

    config_class = MossConfig
    _keys_to_ignore_on_load_unexpected = MASKS

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
        outputs: CausalLMOutputWithPast = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        if labels is not None and self.config.z_loss_weight:
            assert outputs.loss is not None and outputs.logits is not None
            outputs.loss = outputs.loss + self.config.z_loss_weight * max_z_of_microbatch(
                outputs.logits, labels, attention_mask, kwargs.get("num_items_in_batch")
            )
        return outputs


class MossForSequenceClassification(RewardModel, CodeGenPreTrainedModel):
    """Reward model: one score, read at the last real token of each sequence."""

    config_class = MossConfig
    _keys_to_ignore_on_load_unexpected = [*MASKS, r"^lm_head\."]

    def __init__(self, config: MossConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 1
        self.transformer = CodeGenModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()
