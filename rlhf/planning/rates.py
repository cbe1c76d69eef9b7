"""How fast the hardware is: measured rates, and those that had to be assumed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Of one GPU, in bytes, floating-point operations and seconds.

    bandwidth, product: of a large copy (read and write) and of a bfloat16 product of 8,192 x 8,192.
    decode: fraction of the floor that sampling reaches, at 16 and at 64 sequences side by side.
    quantised: fraction of `product` in a training step over 4-bit weights.
    training: the same over bfloat16 weights. reading: of a forward pass. inside, between: bytes a
    second of a GPU to others of its host and of other hosts, as collectives reach them.
    """

    bandwidth: float
    product: float
    decode: tuple[float, float]
    quantised: float
    training: float
    reading: float
    inside: float
    between: float

    def decode_fraction(self, sequences: int) -> float:
        """By the logarithm of how many; never above what was measured for 64."""
        low, high = self.decode
        place = (math.log2(sequences) - 4) / 2
        return max(0.1, low + (high - low) * min(1.0, place))


H100 = Rates(
    # benchmarks/results/rollout_b64.json and rollout_b16.json
    bandwidth=2.924e12,
    product=7.247e14,
    decode=(0.754, 0.842),
    # benchmarks/results/qlora_7b.json: Baichuan2-7B and Baichuan-13B, 1,024 tokens at once
    quantised=0.138,
    # Assumed: no file in benchmarks/results has them yet.
    training=0.35,
    reading=0.5,
    inside=3.0e11,
    between=4.0e10,
)
"""One H100 SXM 80 GB; NVLink at two thirds of 450 GB/s, the network at 80 % of 400 Gb/s."""
