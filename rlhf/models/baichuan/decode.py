"""The language model, one token at a time, for sequences of unlike lengths side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from rlhf.models.baichuan.alibi import alibi_mask, alibi_slopes
from rlhf.models.baichuan.attention import Rotation
from rlhf.models.baichuan.trunk import BaichuanDecoderLayer
from rlhf.models.joined import Joined, join
from rlhf.models.spread import shards
from rlhf.ops.decode_attention import decode_attention

Products = dict[str, Joined]
"""Of a block's products those that are joined with their adapters, by the name of the first."""
TOGETHER = (("W_pack",), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Those that read the same states."""
# For prompts: cuDNN's kernel, which torch would take, plans for 70 ms at every new shape.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class SlotDecoder:
    """A Baichuan language model, and a cache of `slots` sequences, each of its own length.

    `step` takes every slot one token further. Nothing in it depends on a value that the host knows,
    so that it can be captured once as a CUDA graph; on CUDA its pieces are compiled.
    """

    def __init__(self, model: Any, slots: int, capacity: int) -> None:
        config = model.config
        heads = config.num_attention_heads
        self.slots = slots
        self._model, self._heads = model, heads
        shape = (slots, heads, capacity, config.hidden_size // heads)
        self._keys = [
            torch.zeros(shape, dtype=model.dtype, device=model.device) for _ in model.model.layers
        ]
        self._values = [torch.zeros_like(keys) for keys in self._keys]
        rope = config.position_embedding == "rope"
        self._slopes = None if rope else alibi_slopes(heads, model.device)
        self._products: list[Products] = []
        self._before, self._after = _before, _after
        self._before_prompts, self._after_prompts = _before, _after
        if model.device.type == "cuda":
            self._before = torch.compile(_before, dynamic=False)
            self._after = torch.compile(_after, dynamic=False)
            # Functions of their own: what is compiled for any number of tokens is slower for few.
            self._before_prompts = torch.compile(_before_any, dynamic=True)
            self._after_prompts = torch.compile(_after_any, dynamic=True)

    def fill(self, slots: Tensor, prompts: Tensor, lengths: Tensor) -> Tensor:
        """Read prompts into slots, from their first column on.

        slots, lengths: [B]; prompts: [B, P], padded on the right -> [B, V], the next tokens' logits
        """
        batch, width = prompts.shape
        trunk = self._model.model
        hidden = trunk.embed_tokens(prompts.flatten())  # [B * P, H]
        place = torch.arange(width, device=prompts.device)
        rotation = self._rotation(hidden, place.repeat(batch))
        # What stands right of a prompt is never attended to: plain causal attention is enough.
        mask = None
        if self._slopes is not None:
            mask = alibi_mask(
                None, heads=self._heads, queries=place, keys=place, dtype=hidden.dtype
            )
        for layer, keys, values in zip(trunk.layers, self._keys, self._values, strict=True):
            query, key, value = (
                part.unflatten(0, (batch, width)).transpose(1, 2)
                for part in self._before_prompts(layer, {}, hidden, rotation)
            )
            keys[slots, :, :width] = key
            values[slots, :, :width] = value
            with sdpa_kernel(KERNELS):
                attended = functional.scaled_dot_product_attention(
                    query, key, value, attn_mask=mask, is_causal=mask is None
                )
            hidden = self._after_prompts(layer, {}, hidden, attended.transpose(1, 2).flatten(0, 1))
        if not self._products:  # while the device reads
            spread = bool(shards(self._model))  # what is gathered is not to be moved
            self._products = [{} if spread else _joined(layer) for layer in trunk.layers]
        last = torch.arange(batch, device=prompts.device) * width + lengths - 1
        return self._logits(hidden[last])

    def step(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens: [S] to append; lengths: [S] tokens in the slot before them -> [S, V].

        After the first `fill`: it takes the adapters as they were there.
        """
        trunk = self._model.model
        hidden = trunk.embed_tokens(tokens)
        rotation = self._rotation(hidden, lengths)
        parts = zip(trunk.layers, self._products, self._keys, self._values, strict=True)
        for layer, products, keys, values in parts:
            query, key, value = self._before(layer, products, hidden, rotation)
            attended = decode_attention(query, key, value, keys, values, lengths, self._slopes)
            hidden = self._after(layer, products, hidden, attended)
        return self._logits(hidden)

    def _rotation(self, hidden: Tensor, places: Tensor) -> Rotation | None:
        """places: [N] -> cosine and sine [N, D], or None for ALiBi."""
        rotary = self._model.model.rotary_emb
        if rotary is None:
            return None
        cos, sin = rotary(hidden, places[None])
        return cos[0], sin[0]

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._model.lm_head(self._model.model.norm(hidden))
        return logits


def _joined(layer: BaichuanDecoderLayer) -> Products:
    parts = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
    together = [
        names for names in TOGETHER if len(names) == 1 or layer.mlp.config.hidden_act == "silu"
    ]
    found = {names[0]: join([parts[name] for name in names]) for names in together}
    return {name: product for name, product in found.items() if product}


def _before(
    layer: BaichuanDecoderLayer, products: Products, hidden: Tensor, rotation: Rotation | None
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden: [N, H], rotation: [N, D] twice -> query, key, value [N, heads, D]."""
    attention: Any = layer.self_attn
    packed = products.get("W_pack", attention.W_pack)(layer.input_layernorm(hidden))
    query, key, value = packed.unflatten(1, (3, -1, attention.head_dim)).unbind(1)
    if rotation is not None:
        query, key = apply_rotary_pos_emb(query, key, *rotation)
    return query.contiguous(), key.contiguous(), value.contiguous()


def _after(
    layer: BaichuanDecoderLayer, products: Products, hidden: Tensor, attended: Tensor
) -> Tensor:
    """hidden: [N, H], what the layer began with; attended: [N, heads, D] -> [N, H]."""
    feed: Any = layer.mlp
    hidden = _beside(hidden, products.get("o_proj"), layer.self_attn.o_proj, attended.flatten(1))
    states = layer.post_attention_layernorm(hidden)
    if "gate_proj" in products:
        wide = products["gate_proj"].gated(states)
    else:
        wide = feed.act_fn(feed.gate_proj(states)) * feed.up_proj(states)
    return _beside(hidden, products.get("down_proj"), feed.down_proj, wide)


def _beside(hidden: Tensor, product: Joined | None, plain: nn.Module, states: Tensor) -> Tensor:
    """hidden: [N, H], plus what the layer makes of states [N, K]."""
    added: Tensor = product(states, hidden) if product else hidden + plain(states)
    return added


def _before_any(
    layer: BaichuanDecoderLayer, products: Products, hidden: Tensor, rotation: Rotation | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _before(layer, products, hidden, rotation)


def _after_any(
    layer: BaichuanDecoderLayer, products: Products, hidden: Tensor, attended: Tensor
) -> Tensor:
    return _after(layer, products, hidden, attended)
