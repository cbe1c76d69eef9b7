"""The RoPE models as Llama, for runtimes that serve Llama, and Llama models in Baichuan's layout.

Baichuan-7B is Llama but for its names: query, key and value are the rows of one W_pack, in that
order. Both ways are exact, whatever the type of the weights, but for NormHead: its rows are
normalised beforehand and rounded to the type of the checkpoint, in float32 to its last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM, BaichuanForSequenceClassification
from rlhf.models.export import assemble
from rlhf.models.registry import spec_of

PACKED = "self_attn.W_pack.weight"
PROJECTIONS = tuple(f"self_attn.{name}_proj.weight" for name in "qkv")
# Rotary scalings that look at all positions of a batch, on the host, which no CUDA graph can hold.
BY_THE_LONGEST = ("dynamic", "longrope")
SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "dtype",
)


def to_llama(model: BaichuanForCausalLM | BaichuanForSequenceClassification) -> PreTrainedModel:
    """The same model as Llama, on the same storage but for a normalised head.

    A reward model becomes a LlamaForSequenceClassification, which finds the last token by the
    padding id and not by the attention mask. Raises ValueError for a model with ALiBi.
    """
    check_rope(model.config)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in model.state_dict().items():
        if name.endswith(PACKED):
            layer = name.removesuffix(PACKED)
            parts = zip(PROJECTIONS, weight.chunk(3), strict=True)
            weights |= {f"{layer}{projection}": part for projection, part in parts}
        else:
            weights[name] = weight
    fields = _shared(model.config) | {"tie_word_embeddings": False}
    if isinstance(model, BaichuanForSequenceClassification):
        config = LlamaConfig(**fields | {"num_labels": model.num_labels})
        return assemble(LlamaForSequenceClassification, config, weights)
    weights["lm_head.weight"] = model.head_weight().detach()
    llama = assemble(LlamaForCausalLM, LlamaConfig(**fields), weights)
    llama.generation_config = model.generation_config
    return llama


def check_rope(config: PreTrainedConfig) -> None:
    """Raises ValueError for a model that Llama's rotary embedding cannot express."""
    spec = spec_of(config)
    if spec.position != "rope":
        raise ValueError(
            f"--to llama: the positions of {spec.name} are {spec.position}, Llama has only rope; "
            "use --to official, for runtimes that read its own layout"
        )


def from_llama(model: LlamaForCausalLM) -> BaichuanForCausalLM:
    """The same model in the layout of Baichuan-7B: whole new W_packs, the rest shared.

    Grouped key and value heads are repeated, tied heads are untied, the rotary base and its scaling
    are kept. Raises ValueError for what the layout has no place for: see `check_llama`.
    """
    check_llama(model.config)
    weights = dict(model.state_dict())
    heads = model.config.num_attention_heads
    groups = heads // (model.config.num_key_value_heads or heads)
    size = model.config.hidden_size // heads
    for index in range(model.config.num_hidden_layers):
        layer = f"model.layers.{index}."
        query, key, value = (weights.pop(layer + projection) for projection in PROJECTIONS)
        parts = (query, _repeated(key, groups, size), _repeated(value, groups, size))
        weights[layer + PACKED] = torch.cat(parts)
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    fields = _shared(model.config)
    fields["pad_token_id"] = fields["pad_token_id"] or 0
    config = BaichuanConfig(**fields, position_embedding="rope", norm_head=False)
    baichuan = assemble(BaichuanForCausalLM, config, weights)
    baichuan.generation_config = model.generation_config
    assert isinstance(baichuan, BaichuanForCausalLM)
    return baichuan


def check_llama(config: LlamaConfig) -> None:
    """Raises ValueError for a Llama that has more than the Baichuan-7B layout can hold."""
    extra = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name)]
    if extra:
        raise ValueError(f"{extra[0]} is set: the Baichuan layout has no biases; choose another")
    kind = (config.rope_parameters or {}).get("rope_type")
    if kind in BY_THE_LONGEST:
        raise ValueError(
            f"rope_type {kind}: its frequencies are those of the longest row, so that rows of a "
            "batch would change one another; choose a model with other positions"
        )
    if (
        config.head_dim is None
        or config.num_attention_heads * config.head_dim != config.hidden_size
    ):
        raise ValueError(
            f"{config.num_attention_heads} heads of {config.head_dim} are not the hidden size "
            f"{config.hidden_size}: the Baichuan layout needs them equal; choose another model"
        )


def _shared(config: LlamaConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SHARED_FIELDS}


def _repeated(weight: torch.Tensor, groups: int, size: int) -> torch.Tensor:
    """weight: [KV heads * D, H] -> [heads * D, H]: query head i reads key head i // groups."""
    heads = weight.view(-1, size, weight.shape[1])
    return heads.repeat_interleave(groups, dim=0).flatten(0, 1)
