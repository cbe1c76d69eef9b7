"""The attention of the family's blocks, on transformers' attention interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.ops.varlen_attention import varlen_attention

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
        if end_to_end(self.config, kwargs):
            output, weights = self._separately(query, key, value, **kwargs)[None], None
        else:
            attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, eager_attention_forward
            )
            # Without such a mask a kernel knows by its place what a query sees: none may miss.
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


def end_to_end(config: BaichuanConfig, arguments: dict[str, Any]) -> bool:
    """Whether sequences lie in one row and attention reads where they begin, instead of a mask."""
    return config._attn_implementation == "sdpa" and arguments.get("cu_seq_lens_q") is not None
