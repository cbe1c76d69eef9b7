from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from rlhf.config.schema import TuningSection
from rlhf.models.joined import join
from rlhf.models.registry import named
from rlhf.planning.cost import Cost
from rlhf.planning.engines import Engine
from rlhf.planning.memory import Rollout
from rlhf.planning.rates import H100, H200, Rates

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results"
SPEC = named("baichuan2-7b")
ROUND = replace(
    H100,
    product=1e15,
    bandwidth=1e12,
    training=(0.5, 0.8),
    reading=(0.5, 0.8),
    wait={"full": 0.01 / 32, "lora": 0.1 / 32, "qlora": 1 / 32},
    inside=1e11,
    between=1e10,
    host=1e11,
)
FULL = Cost(SPEC, TuningSection(method="full"), 0.0, Engine(), ROUND, 2)
HEAD = 125_696 * 4096
WEIGHTS = 7_505_973_248
N = WEIGHTS - HEAD


def test_flops_of_a_token():
    """2N, and attention's two products over half of 1,000 columns: 2 x 2 x 500 x 32 x 4,096."""
    attention = 2 * 2 * 500 * 32 * 4096
    assert FULL.forward_flops(1, 1000) == pytest.approx(2 * N + attention)


def test_passes():
    """Full tuning: forward and twice that; frozen weights: once less; blocks again: once more."""
    forward, wait = FULL.forward_flops(1000, 1000) / 5e14, 0.01
    assert FULL.passes(1000, 1000, 1) == pytest.approx(3 * forward + wait)
    fast = replace(FULL, compiled=True)
    assert fast.passes(1000, 1000, 1) == pytest.approx(3 * forward * 5 / 8 + wait)
    blocks = FULL.forward_flops(1000, 1000, 0) / 5e14
    half = replace(FULL, again=0.5)
    assert half.passes(1000, 1000, 1) == pytest.approx(3 * forward + blocks / 2 + wait)
    lora = replace(FULL, tuning=TuningSection(method="lora"))
    adapters = lora.counts.multiplied / FULL.counts.multiplied
    assert lora.passes(1000, 1000, 1) == pytest.approx(2 * forward * adapters + 0.1, rel=0.01)


def test_over_4_bits_the_program_takes_longer():
    packed = replace(FULL, tuning=TuningSection(method="qlora"))
    forward = packed.forward_flops(1000, 1000) / 5e14
    assert packed.passes(1000, 1000, 1) == pytest.approx(2 * forward + 1)


def test_a_head_that_sees_some_tokens():
    none, some = (FULL.forward_flops(1000, 1000, projected) for projected in (0, 100))
    assert some - none == pytest.approx(100 * 2 * HEAD, rel=0.001)


def test_sums_of_gradients_and_the_optimiser_s_step():
    """A sum reads two and writes one; AdamW moves 28 bytes a weight, on every GPU its part."""
    one, four = (FULL.passes(1000, 1000, n) for n in (1, 4))
    assert four - one == pytest.approx(3 * 0.01 + 4 * 3 * 2 * WEIGHTS / 1e12)
    assert FULL.step() == pytest.approx(28 * WEIGHTS / 1e12)
    spread = replace(FULL, engine=Engine(16, 2))
    assert spread.step() == pytest.approx(FULL.step() / 16)
    on_cpu = replace(FULL, engine=Engine(16, 3, offload=True))
    assert on_cpu.step() == pytest.approx(8 * 28 * WEIGHTS / 16 / 1e11)


@pytest.mark.parametrize(("rates", "card"), [(H100, ""), (H200, "_h200")])
@pytest.mark.parametrize("batch", [16, 64])
def test_seconds_of_sampling(batch, rates, card):
    """Four measurements, two cards, by one fraction of the bandwidth and one wait a block."""
    measured = json.loads((RESULTS / f"rollout_b{batch}{card}.json").read_text())
    cost = Cost(SPEC, TuningSection(method="lora"), 0.0, Engine(), rates, 2)
    seconds = cost.sampling(Rollout(batch, 128, 256, 256), batch)
    assert seconds == pytest.approx(measured["seconds"], rel=0.02)


def test_a_step_of_sampling_by_hand():
    """Steps of 4 turns, their weights, what the cache holds on the mean, and each block's begin."""
    rates = Rates(1e12, 1e30, keys=0.5, block=1e-3, of_joined=1e-3, of_adapters=2e-3)
    cost = Cost(SPEC, TuningSection(method="lora"), 0.0, Engine(), rates, 2)
    read = 400 * cost.counts.multiplied * 2 / 1e12
    keys = 32 * 100 * (60 + 50) * 2 * SPEC.layers * SPEC.hidden_size * 2 / 5e11
    begun = 400 * SPEC.layers * 1e-3
    work = Rollout(32, 128, 60, 100)
    assert cost.sampling(work, 8) == pytest.approx(read + keys + begun)
    assert cost.sampling(work, 8, adapted=True) == pytest.approx(read + keys + 2 * begun)
    beside = replace(cost, tuning=TuningSection(method="lora", r=12))
    assert beside.sampling(work, 8, adapted=True) == pytest.approx(read + keys + 3 * begun)


@pytest.mark.parametrize("rank", [4, 8, 12, 16, 64, 72, 128])
def test_which_adapters_are_joined(rank):
    config = LoraConfig(r=rank, target_modules=["0"])
    layer = get_peft_model(nn.Sequential(nn.Linear(8, 8, bias=False)), config).base_model.model[0]
    cost = Cost(SPEC, TuningSection(method="lora", r=rank), 0.0, Engine(2), H200, 2)
    assert cost.joins == (join([layer]) is not None)
    assert (
        replace(cost, tuning=cost.tuning.model_copy(update={"targets": SPEC.lora_targets})).joins
        == cost.joins
    )
    assert not replace(cost, tuning=cost.tuning.model_copy(update={"targets": ("W_pack",)})).joins
    assert not replace(cost, tuning=cost.tuning.model_copy(update={"method": "qlora"})).joins
    assert not replace(cost, engine=Engine(2, 2)).joins


def test_what_goes_between_gpus():
    """Float32 gradients once around; ZeRO-3 gathers all weights twice a microbatch."""
    together = replace(FULL, engine=Engine(8))
    assert together.exchange(4) == pytest.approx(2 * 7 / 8 * 7_505_973_248 * 4 / 1e11)
    spread = replace(FULL, engine=Engine(16, 3))
    moved = 15 / 16 * 7_505_973_248 * 2
    assert spread.exchange(4) == pytest.approx((2 + 4 * 2) * moved / 1e10)
    near = replace(FULL, engine=Engine(16, 3, hpz=8))
    assert near.exchange(4) == pytest.approx((2 + 4) * moved / 1e10 + 4 * moved / 1e11)
