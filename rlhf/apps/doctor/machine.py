"""Driver, CUDA, bfloat16, flash attention, bitsandbytes, DeepSpeed and the compilers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from rlhf.apps.doctor.finding import Finding
from rlhf.runtime.compilers import c_compiler

NF4_ERROR = 0.2
"""Largest error of a number between -1 and 1 in 4 bits: half the widest gap of NF4 is 0.15."""


@dataclass(frozen=True)
class Accelerators:
    """What there is. driver: its version, None without nvidia-smi, "" where that fails. built_for:
    the CUDA version of this torch, None for a CPU build. names: the GPUs that torch can use."""

    driver: str | None
    built_for: str | None
    names: tuple[str, ...]


def look() -> Accelerators:
    usable = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count() * usable)]
    return Accelerators(_driver(), torch.version.cuda, tuple(names))


def check(found: Accelerators) -> Iterator[Finding]:
    """Everything that computing needs, with a small calculation where that tells more."""
    yield gpu(found)
    if found.names:
        yield bfloat16(torch.cuda.is_bf16_supported(including_emulation=False))
        yield flash_attention()
    yield bitsandbytes()
    yield deepspeed()
    yield compilers(bool(found.names))


def gpu(found: Accelerators) -> Finding:
    if found.names:
        names = ", ".join(f"{found.names.count(n)} x {n}" for n in dict.fromkeys(found.names))
        text = f"{names}; driver {found.driver or 'unknown'}, CUDA {found.built_for}"
        return Finding("ok", "gpu", text)
    if found.driver is None:
        text = "none (no nvidia-smi): a CPU is enough for configs/tiny.yaml and --rehearse alone; "
        return Finding("warning", "gpu", text + "on a GPU machine, install NVIDIA's driver")
    if not found.driver:
        text = "nvidia-smi fails; restart the machine, or start the container with its GPUs"
        return Finding("warning", "gpu", f"{text} (--gpus all), then run nvidia-smi again")
    if found.built_for is None:
        text = f"driver {found.driver}, but torch {torch.__version__} is built for CPUs; install"
        return Finding("warning", "gpu", f"{text} torch's CUDA build (pytorch.org says how)")
    text = f"driver {found.driver}, but torch's CUDA {found.built_for} finds no GPU; renew the"
    return Finding("warning", "gpu", f"{text} driver, or check CUDA_VISIBLE_DEVICES")


def bfloat16(supported: bool) -> Finding:
    if supported:
        return Finding("ok", "bf16", "the GPU computes in bfloat16")
    text = (
        "this GPU has no bfloat16; set runtime.precision: float16, or float32 where there is a ppo"
    )
    return Finding("warning", "bf16", text)


def flash_attention() -> Finding:
    """One head of 64 in bfloat16, by torch's own kernel: the one that models here use."""
    query = torch.randn(1, 1, 16, 64, device="cuda", dtype=torch.bfloat16)
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            scaled_dot_product_attention(query, query, query, is_causal=True)
    except RuntimeError:
        text = (
            "torch's kernel does not run on this GPU (compute 8.0 and later); attention is slower"
        )
        return Finding("warning", "attention", f"{text} and takes more memory: shorten max_length")
    return Finding("ok", "attention", "torch's flash attention runs (ALiBi models: its other ones)")


def bitsandbytes() -> Finding:
    """Into 4 bits and back."""
    if _version("bitsandbytes") is None:
        text = (
            "not installed: no qlora, no adamw-8bit, no --load-in; pip install 'baichuan-rlhf[gpu]'"
        )
        return Finding("warning", "bitsandbytes", text)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    numbers = torch.linspace(-1, 1, 256, device=device).reshape(4, 64)
    try:
        from bitsandbytes import functional

        packed, state = functional.quantize_4bit(numbers, blocksize=64, quant_type="nf4")
        error = (functional.dequantize_4bit(packed, state) - numbers).abs().max().item()
    except Exception as reason:  # a library that was built for another CUDA fails in its own ways
        text = f"{_first_line(reason)}; install a version for CUDA {torch.version.cuda}"
        return Finding("fault", "bitsandbytes", text)
    if not error < NF4_ERROR:
        text = f"4 bits give numbers that are {error:.2g} off; pip install -U 'baichuan-rlhf[gpu]'"
        return Finding("fault", "bitsandbytes", text)
    return Finding("ok", "bitsandbytes", f"{_version('bitsandbytes')}, NF4 works on {device}")


def deepspeed() -> Finding:
    found = _version("deepspeed")
    if found is None:
        text = "not installed: no ZeRO over several GPUs; pip install 'baichuan-rlhf[deepspeed]'"
        return Finding("ok", "deepspeed", text)
    if (reason := _import_error("deepspeed")) is not None:
        text = f"{found}, but its import fails: {reason}; mend that, or pip uninstall deepspeed"
        return Finding("fault", "deepspeed", text)
    return Finding("ok", "deepspeed", found)


def compilers(on_gpu: bool) -> Finding:
    found = c_compiler()
    if found is not None:
        return Finding("ok", "compiler", found)
    if on_gpu:
        text = "no C compiler: fast decoding and `compile` need one"
        return Finding("warning", "compiler", f"{text}; install gcc, or set ppo.engine: plain")
    return Finding("ok", "compiler", "none, which a CPU does without")


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return ""
    return answer.stdout.split("\n")[0].strip() if answer.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _import_error(package: str) -> str | None:
    """The last line of what Python says, in a process of its own: some packages print, or exit."""
    command = [sys.executable, "-c", f"import {package}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    said = answer.stderr.strip().split("\n")[-1]
    return (said or f"exit code {answer.returncode}") if answer.returncode else None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
