from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.config.schema import TuningSection
from rlhf.models.registry import named
from rlhf.planning.cost import Cost
from rlhf.planning.engines import Engine
from rlhf.planning.memory import Rollout
from rlhf.planning.rates import H100

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results"
SPEC = named("baichuan2-7b")
ROUND = replace(H100, product=1e15, training=0.5, reading=0.5, inside=1e11, between=1e10)
FULL = Cost(SPEC, TuningSection(method="full"), False, Engine(), ROUND, 2)
N = 7_505_973_248 - 125_696 * 4096


def test_flops_of_a_token():
    """2N, and attention's two products over half of 1,000 columns: 2 x 2 x 500 x 32 x 4,096."""
    attention = 2 * 2 * 500 * 32 * 4096
    assert FULL.forward_flops(1, 1000) == pytest.approx(2 * N + attention)


def test_passes():
    """Full tuning: forward and twice that; frozen weights: once less; checkpoints: once more."""
    forward = FULL.forward_flops(1000, 1000) / 5e14
    assert FULL.training(1000, 1000, 1) == pytest.approx(3 * forward)
    lora = replace(FULL, tuning=TuningSection(method="lora"), checkpointing=True)
    adapters = lora.counts.multiplied / FULL.counts.multiplied
    assert lora.training(1000, 1000, 1) == pytest.approx(3 * forward * adapters, rel=0.01)


@pytest.mark.parametrize("batch", [16, 64])
def test_the_floor_of_sampling_is_the_benchmark_s(batch):
    """benchmarks/rollout.py reckons it from the same rates, without the prompts' attention."""
    measured = json.loads((RESULTS / f"rollout_b{batch}.json").read_text())
    cost = Cost(SPEC, TuningSection(method="lora"), False, Engine(), H100, 2)
    seconds = cost.sampling(Rollout(batch, 128, 256, 256), batch)
    assert seconds == pytest.approx(measured["seconds"], rel=0.02)


def test_what_goes_between_gpus():
    """Float32 gradients once around; ZeRO-3 gathers all weights twice a microbatch."""
    together = replace(FULL, engine=Engine(8))
    assert together.exchange(4) == pytest.approx(2 * 7 / 8 * 7_505_973_248 * 4 / 1e11)
    spread = replace(FULL, engine=Engine(16, 3))
    moved = 15 / 16 * 7_505_973_248 * 2
    assert spread.exchange(4) == pytest.approx((2 + 4 * 2) * moved / 1e10)
    near = replace(FULL, engine=Engine(16, 3, hpz=8))
    assert near.exchange(4) == pytest.approx((2 + 4) * moved / 1e10 + 4 * moved / 1e11)


def test_more_sequences_reach_more_of_the_floor():
    assert H100.decode_fraction(16) == 0.754
    assert H100.decode_fraction(64) == H100.decode_fraction(128) == 0.842
    assert 0.1 <= H100.decode_fraction(1) < 0.754
