"""The device and the type that a run computes in."""

from __future__ import annotations

import os

import torch

from rlhf.config.schema import RuntimeSection

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(section: RuntimeSection) -> torch.device:
    """`auto`: an accelerator where there is one. Raises ValueError for one that is not there."""
    available = torch.cuda.is_available()
    if section.device == "cuda" and not available:
        raise ValueError(
            "runtime.device is cuda, but torch sees no CUDA device; check nvidia-smi and that "
            "torch is a CUDA build, or set runtime.device to cpu"
        )
    if section.device == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def choose_dtype(section: RuntimeSection, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the hardware computes in it, float32 on a CPU, where it is faster."""
    if section.precision != "auto":
        return DTYPES[section.precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
