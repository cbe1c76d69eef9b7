"""What one attention call and one product with LoRA take on a GPU, at the sizes of Baichuan2-7B.

    python benchmarks/gpu_kernels.py RESULT.json

attention: milliseconds of a call, widths in the order in which they were called, 8 rows of 32
heads of 128, causal; with gradients [width, forward, backward], without them [width, forward]. By
kernel: `default` is the one that torch takes, which plans at a width that is new to it; the others
come after it, and cuDNN's has its plans by then.

products: microseconds of a weight's product with so many rows, as in a step of sampling, in a CUDA
graph: `plain` without an adapter; `lora` beside an adapter of rank 16; `joined` with the adapter's
first matrix as further rows of the weight (`rlhf.models.joined`). `2 x` are two weights that read
the same states, and the product of what they make, one of it through SiLU, compiled but for
`joined`. Weights alternate, so that none is in the cache.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from rlhf.models.joined import Joined
from rlhf.runtime.usage import versions

KERNELS = {
    "default": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
WIDTHS = {
    True: (376, 415, 461, 511, 376, 415, 461, 511, 384, 416, 464, 512, 384, 512, 376),
    False: (377, 417, 377, 417, 1023, 2047, 1023, 2047),
}
"""With gradients, and without."""
WEIGHTS = ((4096, 12288), (4096, 4096), (4096, 11008), (11008, 4096))
PAIR = (4096, 11008)
ROWS, RANK, SCALE = (16, 32, 64, 128), 16, 2.0
CALLS, REPLAYS = 20, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    path: Path = parser.parse_args().result
    content = {
        "workload": "gpu_kernels",
        "hardware": torch.cuda.get_device_name(),
        "versions": versions(),
        "unit": "attention: milliseconds; products: microseconds",
        "attention": {
            name: {kernel: [attention(kernel, width, learns) for width in WIDTHS[learns]]
                   for kernel in KERNELS}
            for name, learns in (("with gradients", True), ("without", False))
        },
        "products": {
            f"{rows} x {given} -> {made}": products(rows, given, made)
            for rows in ROWS
            for given, made in WEIGHTS
        }
        | {f"{rows} x {PAIR[0]} -> 2 x {PAIR[1]}": products(rows, *PAIR, 2) for rows in ROWS},
    }  # fmt: skip
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def attention(kernel: str, width: int, learns: bool) -> list[float]:
    query, key, value = (random(8, width, 32, 128).transpose(1, 2) for _ in range(3))
    for given in (query, key, value):
        given.requires_grad_(learns)
    chosen = KERNELS[kernel]
    with nullcontext() if chosen is None else sdpa_kernel([chosen]):
        forward, out = timed(
            lambda: scaled_dot_product_attention(query, key, value, is_causal=True)
        )
    if not learns:
        return [width, forward]
    gradient = torch.randn_like(out)
    backward, _ = timed(lambda: out.backward(gradient))
    return [width, forward, backward]


@torch.no_grad()
def products(rows: int, given: int, made: int, count: int = 1) -> dict[str, float]:
    """count: how many weights of this size read the same states."""
    states, first, second = random(rows, given), random(RANK, given), random(made, RANK)
    weights = cycle([random(made, given) for _ in range(4)])
    whole = [random(count * (made + RANK), given) for _ in range(4)]
    joined = cycle([Joined(each, (second,) * count, (SCALE,) * count) for each in whole])

    def plain() -> Tensor:
        return linear(states, next(weights))

    def with_lora() -> Tensor:
        return torch.addmm(plain(), linear(states, first), second.t(), alpha=SCALE)

    def twice(way: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return way if count == 1 else lambda: gated(way(), way())

    ways: dict[str, Callable[[], Tensor]] = {
        "plain": twice(plain),
        "lora": twice(with_lora),
        "joined": lambda: next(joined)(states) if count == 1 else next(joined).gated(states),
    }
    return {name: replayed(way) for name, way in ways.items()}


@torch.compile(dynamic=False)
def gated(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate) * up


def random(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what came of it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return round((time.perf_counter() - start) * 1e3, 2), result


def replayed(work: Callable[[], Tensor]) -> float:
    """Microseconds of one of the calls in a graph."""
    for _ in range(3):
        work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            work()
    graph.replay()
    milliseconds, _ = timed(lambda: [graph.replay() for _ in range(REPLAYS)])
    return round(milliseconds * 1e3 / REPLAYS / CALLS, 2)


if __name__ == "__main__":
    main()
