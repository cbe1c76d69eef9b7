"""Baichuan and Baichuan 2, 7B and 13B, on transformers' own Llama blocks and attention interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from rlhf.models.baichuan.alibi import alibi_mask
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.head import NormHead

Rotation = tuple[torch.Tensor, torch.Tensor]


class BaichuanAttention(nn.Module):
    """Attention whose query, key and value come from one fused matrix, in that order of rows."""

    is_causal = True
    num_key_value_groups = 1

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Rotation | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states: [B, T, H] -> ([B, T, H], weights [B, heads, T, S] or None)."""
        shape = hidden_states.shape[:-1]
        packed = self.W_pack(hidden_states).view(*shape, 3, -1, self.head_dim)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.reshape(*shape, -1)), weights


class BaichuanDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]
    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = BaichuanAttention(config, layer_idx)


class BaichuanPreTrainedModel(LlamaPreTrainedModel):  # type: ignore[misc]
    config_class = BaichuanConfig
    _no_split_modules = ["BaichuanDecoderLayer"]
    _can_record_outputs = {"hidden_states": BaichuanDecoderLayer, "attentions": BaichuanAttention}
    # Baichuan-7B checkpoints carry their rotary frequencies, which the config already determines.
    _keys_to_ignore_on_load_unexpected = [r"self_attn\.rotary_emb\.inv_freq$"]


class BaichuanModel(BaichuanPreTrainedModel):
    """The trunk: token ids [B, T] to hidden states [B, T, H]."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            BaichuanDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        rope = config.position_embedding == "rope"
        self.rotary_emb = LlamaRotaryEmbedding(config) if rope else None
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids: [B, T]; attention_mask: [B, S], True or 1 on real tokens; position_ids: [B, T].

        Without an attention mask, position_ids that start again mark packed sequences, which do not
        see each other.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        seen = 0 if past_key_values is None else past_key_values.get_query_offset()
        if position_ids is None:
            position_ids = (torch.arange(hidden.shape[1], device=hidden.device) + seen)[None]
        # A cache made here is empty: the mask does not need it, and packing is looked for without one.
        mask = self._mask(hidden, attention_mask, position_ids, past_key_values)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        rotation = None if self.rotary_emb is None else self.rotary_emb(hidden, position_ids)
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=rotation,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )

    def _mask(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        cache: Cache | None,
    ) -> torch.Tensor | None:
        """The mask that the attention functions take; for ALiBi it carries the bias as well."""
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
        )
        if self.rotary_emb is not None:
            return mask
        kind = self.config._attn_implementation
        if kind not in ("eager", "sdpa"):
            raise ValueError(
                f"attn_implementation {kind!r} cannot carry the ALiBi bias of this model: use 'sdpa'"
            )
        queries = hidden.shape[1]
        if mask is not None:
            keys = mask.shape[-1]
        else:
            keys = queries if cache is None else cache.get_mask_sizes(queries, 0)[0]
        offset = 0 if cache is None else cache.get_query_offset()
        return alibi_mask(
            mask,
            heads=self.config.num_attention_heads,
            queries=torch.arange(queries, device=hidden.device) + offset,
            keys=torch.arange(keys, device=hidden.device),
            dtype=torch.float32 if kind == "eager" else hidden.dtype,
        )


class BaichuanForCausalLM(BaichuanPreTrainedModel, GenerationMixin):  # type: ignore[misc]
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
        return self.lm_head.weight

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
        """labels: [B, T], -100 where there is no loss. logits_to_keep: how many last positions (0 all),
        or their indices. The loss is the mean cross-entropy, plus z_loss_weight times Max-z."""
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
        self.num_labels = config.num_labels
        self.model = BaichuanModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def token_scores(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids, attention_mask, position_ids: [B, T] -> the score at every token, [B, T]."""
        hidden = self.model(input_ids, attention_mask, position_ids, use_cache=False)
        return self.score(hidden.last_hidden_state).squeeze(-1)

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
        """attention_mask: [B, T], padding on either side; without one all tokens are real.

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

    logits: [B, T, V]; attention_mask: [B, T]. Positions that predict nothing, the last one and those on
    padding, do not count.
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
    """hidden: [B, T, H], attention_mask: [B, T] -> [B, H] at the last position that is kept."""
    if attention_mask is None:
        return hidden[:, -1]
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    last = (positions * attention_mask.to(hidden.device).bool()).argmax(-1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
