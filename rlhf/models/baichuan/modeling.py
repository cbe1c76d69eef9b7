"""Baichuan and Baichuan 2, 7B and 13B: the language model and the reward model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.head import NormHead
from rlhf.models.baichuan.trunk import BaichuanModel, BaichuanPreTrainedModel
from rlhf.ops.masking import last_index


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
                share = _share(labels, kwargs.get("num_items_in_batch"))
                loss = loss + self.config.z_loss_weight * share * max_z(logits, attention_mask)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class BaichuanForSequenceClassification(BaichuanPreTrainedModel):
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

    def token_scores(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids, attention_mask, position_ids: [B, T] -> the score at every token, [B, T]."""
        hidden = self.model(input_ids, attention_mask, position_ids, use_cache=False)
        scores: torch.Tensor = self.score(hidden.last_hidden_state)
        return scores.squeeze(-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """attention_mask: [B, S], padding on either side; without one all tokens are real. S is T, or
        more by the length of what past_key_values hold.

        A padding id inside the text is no reason to stop reading, so ids are not looked at.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.score(_last_real(outputs.last_hidden_state, attention_mask))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, pooled_logits=logits, config=self.config
            )
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def max_z(logits: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Max-z (Baichuan 2 report, section 2.5): the mean squared largest logit.

    logits: [B, T, V]; attention_mask: [B, T]. Positions that predict nothing do not count: the last
    one, and those on padding.
    """
    largest = logits[:, :-1].amax(-1).float().square()
    if attention_mask is None or attention_mask.dim() != 2:
        return largest.mean()
    real = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    return (largest * real).sum() / real.sum().clamp(min=1)


def _share(labels: torch.Tensor, items: torch.Tensor | int | None) -> torch.Tensor | float:
    """This microbatch's part of an accumulated batch of `items` labelled tokens."""
    return 1.0 if items is None else (labels[:, 1:] != -100).sum() / items


def _last_real(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """hidden: [B, T, H], attention_mask: [B, S] -> [B, H] at the last position that is kept.

    S exceeds T when a cache holds what came before: the mask covers that too, and ends with hidden.
    """
    if attention_mask is None:
        return hidden[:, -1]
    rows = torch.arange(len(hidden), device=hidden.device)
    kept = attention_mask[:, -hidden.shape[1] :].to(hidden.device).bool()
    return hidden[rows, last_index(kept)]
