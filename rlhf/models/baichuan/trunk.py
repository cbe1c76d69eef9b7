"""The trunk of the family, on transformers' own Llama blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from rlhf.models.baichuan.alibi import alibi_mask
from rlhf.models.baichuan.attention import BaichuanAttention, end_to_end
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.ops.padding import LeftAligned
from rlhf.ops.varlen_attention import has_varlen_kernel


class BaichuanDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.add_module("self_attn", BaichuanAttention(config, layer_idx))

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, *, states_to_keep: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """hidden_states: [B, T, H] -> [B, T, H], or its last `states_to_keep` positions. All else
        goes to attention by its name, whose order is not that of Llama's block.

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

    cuts_last_block = True
    """Whether the last block computes no more than it is asked for (rlhf.models.compiled)."""
    aligns_rows = True
    """Whether padded rows are moved to the left rather than masked, where they can be."""

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
        block makes no more than keys and values, if it `cuts_last_block`.

        With an attention mask and without a cache, rows are moved to the left, where they need no
        mask, unless a row's real tokens are not all in one piece. Without one, position_ids that
        start again mark packed sequences, which do not see each other. Where they lie in one row,
        cu_seq_lens_q [S + 1] and max_length_q, as for transformers' FlashAttention, keep them apart
        without a mask. With key_order [M] keys are those tokens of the row, in this order, and
        cu_seq_lens_k and max_length_k are of them. Not with ALiBi, for which the kernel has no
        place.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        flat = end_to_end(self.config, kwargs)
        if self.rotary_emb is None and flat:
            raise ValueError(
                "cu_seq_lens_q leads to a kernel that has no ALiBi: pass position_ids that start "
                "again with each sequence instead"
            )
        seen = 0 if past_key_values is None else past_key_values.get_query_offset()
        if position_ids is None:
            position_ids = (torch.arange(given.shape[1], device=given.device) + seen)[None]
        aligned = None
        if self.aligns_rows and not flat and not use_cache and past_key_values is None:
            aligned = self._aligned(given, attention_mask, kwargs)
        if aligned:
            given, position_ids = aligned.move(given), aligned.move(position_ids)
        hidden = self.embed_tokens(given) if inputs_embeds is None else given
        # A cache made here is empty. The mask is made before it: packing is looked for without one.
        mask = None
        if aligned:
            mask = self._mask(hidden, None, None, None)
        elif not flat:
            mask = self._mask(hidden, attention_mask, position_ids, past_key_values)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        rotation = None if self.rotary_emb is None else self.rotary_emb(hidden, position_ids)
        # No block is told that it keeps all: compiled, a number that is given is one that varies,
        # 0 too, and the shapes behind it are sums.
        kept = aligned.kept(states_to_keep) if aligned else states_to_keep
        last = {"states_to_keep": kept} if self.cuts_last_block and kept else {}
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=rotation,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **(last if layer is self.layers[-1] else {}),
                **kwargs,
            )
        hidden = self.norm(hidden[:, -kept:])
        return BaseModelOutputWithPast(
            last_hidden_state=aligned.back(hidden, states_to_keep) if aligned else hidden,
            past_key_values=past_key_values,
        )

    @property
    def width_unit(self) -> int:
        """Columns that moved rows come in multiples of; 0 where rows are not moved.

        On a GPU cuDNN's attention plans for a tenth of a second at every width that is new to it.
        """
        if not self.aligns_rows:
            return 0
        return 1 if self.device.type == "cpu" else 16

    def _aligned(
        self, given: torch.Tensor, attention_mask: torch.Tensor | None, asked: dict[str, Any]
    ) -> LeftAligned | None:
        """How rows are moved so that no mask is needed, for which kernels are slower; None where
        that cannot be, or where the caller is shown what is inside the blocks."""
        if attention_mask is None or attention_mask.shape != given.shape[:2]:
            return None
        if not asked.get("is_causal", True):
            return None
        inside = (f"output_{name}" for name in self._can_record_outputs)
        if any(asked.get(name, getattr(self.config, name)) for name in inside):
            return None
        if is_tracing(attention_mask):
            return None
        return LeftAligned.of(attention_mask.to(given.device), self.width_unit)

    def _mask(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
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


def _check_attention(config: BaichuanConfig) -> None:
    """Raises ValueError where ALiBi meets a kind of attention that takes no additive mask."""
    kind = config._attn_implementation
    if config.position_embedding == "alibi" and kind not in (None, "eager", "sdpa"):
        raise ValueError(f"attention {kind!r} cannot carry this model's ALiBi bias: use 'sdpa'")
