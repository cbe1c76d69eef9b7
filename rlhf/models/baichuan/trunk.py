"""The trunk of the family, on transformers' own Llama blocks and attention interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from rlhf.models.baichuan.alibi import alibi_mask
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.ops.varlen_attention import has_varlen_kernel, varlen_attention

Rotation = tuple[torch.Tensor, torch.Tensor]


class BaichuanAttention(nn.Module):
    """Attention whose query, key and value come from one fused matrix, in that order of rows."""

    is_causal = True
    num_key_value_groups = 1

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Rotation | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        states_to_keep: int = 0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states: [B, T, H] -> ([B, T, H], weights [B, heads, T, S] or None).

        states_to_keep: the output is of so many last positions; 0: of all.
        """
        shape = hidden_states.shape[:-1]
        packed = self.W_pack(hidden_states).view(*shape, 3, -1, self.head_dim)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if _end_to_end(self.config, kwargs):
            output, weights = self._separately(query, key, value, **kwargs), None
        else:
            attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, eager_attention_forward
            )
            # Without a mask of every query, kernels are told which one sees what by their order.
            if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4:
                query = query[:, :, -states_to_keep:]
                attention_mask = attention_mask[:, :, -states_to_keep:]
            output, weights = attend(
                self, query, key, value, attention_mask, scaling=self.scaling, **kwargs
            )
        return self.o_proj(output.flatten(2)[:, -states_to_keep:]), weights

    def _separately(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        cu_seq_lens_q: torch.Tensor,
        max_length_q: int,
        cu_seq_lens_k: torch.Tensor | None = None,
        max_length_k: int | None = None,
        key_order: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """query, key, value: [1, heads, N, D], sequences end to end -> [N, heads, D]."""
        # Under autocast the rotation may be float32, and the value is in the type to compute in.
        query, key, value = (
            tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value)
        )
        if key_order is not None:
            key, value = key.index_select(0, key_order), value.index_select(0, key_order)
        return varlen_attention(
            query,
            key,
            value,
            cu_seq_lens_q,
            max_length_q,
            self.scaling,
            key_boundaries=cu_seq_lens_k,
            longest_key=max_length_k,
        )


class BaichuanDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.add_module("self_attn", BaichuanAttention(config, layer_idx))

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, *, states_to_keep: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """hidden_states: [B, T, H] -> [B, T, H], or its last `states_to_keep` positions.

        Keys and values are those of all positions; what comes behind attention, three quarters of a
        block's work, is done for the kept ones alone.
        """
        attended, _ = self.self_attn(
            self.input_layernorm(hidden_states), states_to_keep=states_to_keep, **kwargs
        )
        hidden = hidden_states[:, -states_to_keep:] + attended
        out: torch.Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class BaichuanPreTrainedModel(LlamaPreTrainedModel):
    config: BaichuanConfig
    config_class = BaichuanConfig
    _no_split_modules = ["BaichuanDecoderLayer"]
    _can_record_outputs = {"hidden_states": BaichuanDecoderLayer, "attentions": BaichuanAttention}
    # Baichuan-7B checkpoints carry their rotary frequencies, which the config already determines.
    _keys_to_ignore_on_load_unexpected = [r"self_attn\.rotary_emb\.inv_freq$"]

    def __init__(self, config: BaichuanConfig, *args: Any, **kwargs: Any) -> None:
        _check_attention(config)  # before a weight is read; again where the kind is set later
        super().__init__(config, *args, **kwargs)


class BaichuanModel(BaichuanPreTrainedModel):
    """The trunk: token ids [B, T] to hidden states [B, T, H], or the last ones of T."""

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

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        states_to_keep: int = 0,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids, position_ids: [B, T]; attention_mask: [B, S], 1 or True on real tokens.
        states_to_keep: how many last positions' states are wanted (0: all); of the others the last
        block makes no more than keys and values.

        Without an attention mask, position_ids that start again mark packed sequences, which do not
        see each other. Where they lie in one row, cu_seq_lens_q [S + 1] and max_length_q, as for
        transformers' FlashAttention, keep them apart without a mask. With key_order [M] keys are
        those tokens of the row, in this order, and cu_seq_lens_k and max_length_k are of them.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        seen = 0 if past_key_values is None else past_key_values.get_query_offset()
        if position_ids is None:
            position_ids = (torch.arange(hidden.shape[1], device=hidden.device) + seen)[None]
        # A cache made here is empty. The mask is made before it: packing is looked for without one.
        mask = None
        if not _end_to_end(self.config, kwargs):
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
                states_to_keep=states_to_keep if layer is self.layers[-1] else 0,
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
    ) -> torch.Tensor | BlockMask | None:
        """The mask that the attention functions take; for ALiBi it carries the bias as well."""
        _check_attention(self.config)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
        )
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
            # Padding on the left sees nothing. Nobody reads it, but a kernel of PyTorch's gives its
            # query a gradient of NaN at some lengths, and that reaches every weight.
            mask = mask | ~mask.any(dim=-1, keepdim=True)
        if self.rotary_emb is not None:
            return mask
        assert not isinstance(mask, BlockMask), "only flex_attention takes one"
        queries, offset = hidden.shape[1], 0
        keys = queries
        if cache is not None:
            offset = cache.get_query_offset()
            keys = cache.get_mask_sizes(queries, 0)[0]
        return alibi_mask(
            mask,
            heads=self.config.num_attention_heads,
            queries=torch.arange(queries, device=hidden.device) + offset,
            keys=torch.arange(keys if mask is None else mask.shape[-1], device=hidden.device),
            dtype=torch.float32 if self.config._attn_implementation == "eager" else hidden.dtype,
        )


def reads_end_to_end(model: Any, dtype: torch.dtype) -> bool:
    """Whether a model, plain, adapted or wrapped, keeps sequences in one row apart by a fused
    kernel.

    dtype: what its attention computes in.
    """
    model = getattr(model, "module", model)
    config = model.config
    turns = getattr(config, "position_embedding", None) == "rope"
    kernel = has_varlen_kernel(model.device, dtype)
    return config._attn_implementation == "sdpa" and turns and kernel


def _end_to_end(config: BaichuanConfig, arguments: dict[str, Any]) -> bool:
    """Whether sequences lie in one row and attention reads where they begin, instead of a mask."""
    return config._attn_implementation == "sdpa" and arguments.get("cu_seq_lens_q") is not None


def _check_attention(config: BaichuanConfig) -> None:
    """Raises ValueError where ALiBi meets a kind of attention that takes no additive mask."""
    kind = config._attn_implementation
    if config.position_embedding == "alibi" and kind not in (None, "eager", "sdpa"):
        raise ValueError(f"attention {kind!r} cannot carry this model's ALiBi bias: use 'sdpa'")
