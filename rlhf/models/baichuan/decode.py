"""The language model, one token at a time, for sequences of unlike lengths side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from rlhf.models.baichuan.alibi import alibi_slopes
from rlhf.models.baichuan.trunk import BaichuanDecoderLayer, Rotation
from rlhf.ops.decode_attention import decode_attention


class SlotLayer(CacheLayerMixin):
    """Keys and values [slots, heads, capacity, D] of one layer; a prompt fills a slot from 0."""

    is_sliding = False

    def __init__(self, shape: tuple[int, int, int, int], model: Any) -> None:
        super().__init__()
        self.keys: Tensor = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.values: Tensor = torch.zeros_like(self.keys)
        self.filling = torch.arange(0, device=model.device)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the buffers are there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        width = key_states.shape[2]
        self.keys[self.filling, :, :width] = key_states
        self.values[self.filling, :, :width] = value_states
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


class SlotDecoder:
    """A Baichuan language model, and a cache of `slots` sequences, each of its own length.

    A step takes every slot one token further. Nothing in it depends on a value that the host knows,
    so that it can be captured once as a CUDA graph; on CUDA its pieces are compiled.
    """

    def __init__(self, model: Any, slots: int, capacity: int) -> None:
        config = model.config
        heads = config.num_attention_heads
        self.slots = slots
        shape = (slots, heads, capacity, config.hidden_size // heads)
        self._model = model
        self._layers = [SlotLayer(shape, model) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=[*self._layers])
        rope = config.position_embedding == "rope"
        self._slopes = None if rope else alibi_slopes(heads, model.device)
        compiled = model.device.type == "cuda"
        self._before: Any = torch.compile(_before) if compiled else _before
        self._after: Any = torch.compile(_after) if compiled else _after

    def fill(self, slots: Tensor, prompts: Tensor, lengths: Tensor) -> Tensor:
        """slots, lengths: [B]; prompts: [B, P], padded on the right -> [B, V], the next token's."""
        for layer in self._layers:
            layer.filling = slots
        # What stands right of a prompt is never attended to: plain causal attention is enough.
        hidden = self._model.model(
            input_ids=prompts, past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        rows = torch.arange(len(slots), device=slots.device)
        logits: Tensor = self._model.lm_head(hidden[rows, lengths - 1])
        return logits

    def step(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens: [S] to append; lengths: [S] tokens in the slot before them -> [S, V]."""
        trunk = self._model.model
        hidden = trunk.embed_tokens(tokens)
        rotation: Rotation | None = None
        if trunk.rotary_emb is not None:
            cos, sin = trunk.rotary_emb(hidden, lengths[:, None])
            rotation = cos[:, 0], sin[:, 0]
        for layer, cache in zip(trunk.layers, self._layers, strict=True):
            query, key, value = self._before(layer, hidden, rotation)
            attended = decode_attention(
                query, key, value, cache.keys, cache.values, lengths, self._slopes
            )
            hidden = self._after(layer, hidden, attended)
        logits: Tensor = self._model.lm_head(trunk.norm(hidden))
        return logits


def _before(
    layer: BaichuanDecoderLayer, hidden: Tensor, rotation: Rotation | None
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden: [S, H] -> query, key, value [S, heads, D]."""
    attention: Any = layer.self_attn
    packed = attention.W_pack(layer.input_layernorm(hidden))
    query, key, value = packed.view(len(hidden), 3, -1, attention.head_dim).unbind(1)
    if rotation is not None:
        query, key = apply_rotary_pos_emb(query, key, *rotation)
    return query.contiguous(), key.contiguous(), value.contiguous()


def _after(layer: BaichuanDecoderLayer, hidden: Tensor, attended: Tensor) -> Tensor:
    """hidden: [S, H], what the layer began with; attended: [S, heads, D] -> [S, H]."""
    hidden = hidden + layer.self_attn.o_proj(attended.flatten(1))
    out: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return out
