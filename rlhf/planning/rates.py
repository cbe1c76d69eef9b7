"""How fast the hardware is: measured rates, and those that had to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rates:
    """Of one GPU, in bytes, floating-point operations and seconds.

    bandwidth, product: of a large copy (read and write) and of a bfloat16 product of 8,192 x 8,192.
    keys: fraction of `bandwidth` at which sampling reads keys and values. block: seconds a block
        and step of sampling until its kernels have begun; of_joined: what adapters joined to the
        weights add to that, of_adapters: those beside them, of_4_bits: 4-bit weights.
    reading, training: fraction of `product` in passes over bfloat16 weights, without a gradient and
        with one; first as PyTorch runs them, then with compiled blocks. Over 4-bit weights a pass
        takes as long on the GPU, and its program longer.
    wait: seconds a microbatch and block in which the GPU waits for the Trainer's program, by tuning
        method.
    step_in_8_bits: of bitsandbytes' AdamW, a weight.
    inside, between: bytes a second of a GPU to others of its host and of other hosts, as
        collectives reach them. host: of a host's memory, for an optimiser there.
    """

    bandwidth: float
    product: float
    keys: float = 0.93
    block: float = 5.7e-5
    of_joined: float = 1.0e-5
    of_adapters: float = 7.5e-5
    of_4_bits: float = 8.0e-5
    reading: tuple[float, float] = (0.57, 0.72)
    training: tuple[float, float] = (0.5, 0.7)
    wait: Mapping[str, float] = field(
        default_factory=lambda: {"full": 0.0002, "lora": 0.0032, "qlora": 0.0115}
    )
    step_in_8_bits: float = 3.1e-11
    inside: float = 3.0e11
    between: float = 4.0e10
    host: float = 2.0e11


H100 = Rates(bandwidth=2.924e12, product=7.247e14)
"""One H100 SXM 80 GB: benchmarks/results/rollout_b64.json and rollout_b16.json."""
H200 = Rates(bandwidth=4.183e12, product=7.770e14, block=5.25e-5)
"""One H200: bandwidth and product by rollout_b64_h200_earlier.json, of the time of most of what
follows (on another host the product was 2 % faster), block by rollout_b64_h200.json and
rollout_b16_h200.json, in which the engine waits less than in those of an H100.

Measured on it, and taken for an H100 too: training, wait and step_in_8_bits by sft_full.json,
sft_lora.json, those of 32 rows, scaling.json and the growth files, reading by ppo_32.json and
ppo_13b.json, of_joined by ppo_32.json, of_adapters by PPO's other files, all of them from before
adapters were joined, of_4_bits by ppo_nf4.json, the wait over 4-bit weights, on an H100, by
qlora_7b.json; keys fits both cards' rollouts.
Taken for NVLink are two thirds of its 450 GB/s, by which scaling.json's ZeRO-3 on 2 and 4 GPUs is
met (what goes over it is not told from what hides it). Assumed: between, the network at 80 % of
400 Gb/s, and host."""
