"""Weights in 4 and 8 bits, by bitsandbytes."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

Quantization = Literal["nf4", "int8"]
BY_BITS: dict[int, Quantization] = {4: "nf4", 8: "int8"}
HEADS = ["lm_head", "score"]
CPU_KERNEL_BLOCK = (32, 64)
"""Rows and columns of a weight that bitsandbytes' kernel for AVX512-BF16 takes at once."""


def bitsandbytes_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How transformers is to quantise: the trunk alone; NF4 doubly (Dettmers et al. 2023).

    dtype: what 4-bit weights are multiplied in. Raises ValueError without bitsandbytes.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ValueError(
            "weights in 4 or 8 bits need bitsandbytes: pip install 'baichuan-rlhf[gpu]'"
        ) from None
    if quantization == "int8":
        hush()
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=HEADS)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=HEADS,
    )


def hush() -> None:
    """Has bitsandbytes not tell, at every product of 8-bit weights, that it rounds what goes in."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def quantization_of(config: PreTrainedConfig) -> Quantization | None:
    """How a model of this configuration was loaded; None: in plain weights."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    return "nf4" if found.load_in_4bit else "int8"


@torch.no_grad()
def quantise(model: PreTrainedModel, bits: int) -> None:
    """Replaces the trunk's weights in place, by what loading in 4 or 8 bits would give.

    The plain weights are given up one by one, so that little more than them is ever needed. Raises
    ValueError for other numbers of bits, for a quantised model, and without bitsandbytes.
    """
    if bits not in BY_BITS:
        raise ValueError(f"quantize({bits}): bitsandbytes stores 4 or 8 bits; choose one of them")
    if getattr(model, "is_quantized", False):
        raise ValueError(f"quantize({bits}): quantised already; load the plain weights first")
    config = bitsandbytes_config(BY_BITS[bits], model.dtype)
    quantizer: Any = AutoHfQuantizer.from_config(config, pre_quantized=False)
    plain = {n: part for n, part in model.named_modules() if isinstance(part, nn.Linear)}
    quantizer.preprocess_model(model, device_map=None)
    convert = quantizer.get_quantize_ops().convert
    for name, part in model.named_modules():
        if name not in plain or part is plain[name]:
            continue
        source = plain.pop(name)
        weight = f"{name}.weight"
        converted = convert({weight: source.weight.detach()}, model=model)
        part.weight, part.bias = converted[weight], source.bias
        part.train(source.training)
        del source
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    fast_products(model)


def plain_weight(layer: nn.Module) -> torch.Tensor:
    """[out, in] of a linear layer, quantised or not."""
    weight: torch.Tensor = dequantize_module_weight(layer).detach()
    return weight


def is_quantised(part: nn.Module) -> bool:
    """Whether it is a linear layer whose weight is kept in 4 or 8 bits."""
    return type(getattr(part, "weight", None)).__name__ in ("Params4bit", "Int8Params")


def exact_products(model: nn.Module) -> None:
    """From now on 4-bit weights are made plain and then multiplied, on every kind of processor.

    On one with AVX512-BF16 a kernel of bitsandbytes would take over in evaluation. It rounds to
    bfloat16, lets no gradient through, and leaves weights behind that nobody else can read.
    """
    for part in _in_4_bits(model):
        part.support_avx512bf16_for_cpu = False


def fast_products(model: nn.Module) -> None:
    """Lets that kernel take over where it can, for a model that only answers: one row then takes a
    tenth of the time."""
    from bitsandbytes.functional import has_avx512bf16

    rows, columns = CPU_KERNEL_BLOCK
    for part in _in_4_bits(model):
        whole = part.out_features % rows == 0 and part.in_features % columns == 0
        part.support_avx512bf16_for_cpu = whole and has_avx512bf16()


def move_scales(model: nn.Module) -> None:
    """Takes the scales of 8-bit weights to where the weights are, after a whole model was moved:
    the weights stay the same parameters then, and what bitsandbytes keeps beside them stays behind.
    """
    from bitsandbytes.nn import Linear8bitLt

    for part in model.modules():
        if isinstance(part, Linear8bitLt):
            for holder in (part.weight, part.state):
                if holder.SCB is not None:
                    holder.CB = part.weight.data
                    holder.SCB = holder.SCB.to(part.weight.device)


def _in_4_bits(model: nn.Module) -> list[Any]:
    from bitsandbytes.nn import Linear4bit

    return [part for part in model.modules() if isinstance(part, Linear4bit)]
