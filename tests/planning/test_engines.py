from __future__ import annotations

import json

import pytest

from rlhf.config.schema import OptimiserSection
from rlhf.planning.engines import Engine, Learner, read_engine

ADAMW, IN_8_BIT = OptimiserSection(), OptimiserSection(kind="adamw-8bit")
FULL = Learner(frozen=0, learning=1000, width=4, optimiser=ADAMW)


def test_adamw_in_one_process():
    """Float32 weights, gradients and two averages; a fused step needs nothing else."""
    held = Engine().held(FULL)
    assert (held.weights, held.gradients, held.optimiser, held.step) == (4000, 4000, 8000, 0)
    in_8_bit = Engine().held(Learner(0, 1000, 4, IN_8_BIT))
    assert (in_8_bit.optimiser, in_8_bit.step) == (2000, 0)


def test_several_processes_sum_gradients_in_buckets():
    assert Engine(2).held(FULL).gradients == 2 * Engine(1).held(FULL).gradients


@pytest.mark.parametrize(("stage", "gigabytes"), [(2, 16.6), (3, 1.9)])
def test_zero_as_its_authors_reckon(stage, gigabytes):
    """Rajbhandari et al. 2020, figure 1: 7.5 billion weights on 64 GPUs."""
    learner = Learner(frozen=0, learning=7_500_000_000, width=4, optimiser=ADAMW)
    held = Engine(64, stage, bucket=0, prefetch=0).held(learner)
    total = (held.weights + held.gradients + held.optimiser) / 1e9
    assert total == pytest.approx(gigabytes, abs=0.05)


def test_offload_takes_the_optimiser_to_the_host():
    held = Engine(2, 3, offload=True).held(FULL)
    assert (held.optimiser, held.step, held.host) == (0, 0, 500 * 12 + 500 * 4)


def test_hpz_keeps_a_second_copy_in_every_host():
    plain, copied = (Engine(16, 3, hpz=hpz, prefetch=0).held(FULL).weights for hpz in (1, 8))
    assert copied - plain == 2000 // 8


def test_frozen_weights_are_spread_too():
    adapters = Learner(frozen=16_000, learning=10, width=4, optimiser=ADAMW)
    assert Engine(16, 3, prefetch=0).held(adapters).weights == -(-(16_000 + 20) // 16)


def test_reads_what_runtime_deepspeed_names(tmp_path):
    path = tmp_path / "mine.json"
    zero = {"stage": 3, "zero_hpz_partition_size": 4, "reduce_bucket_size": "auto"}
    zero["offload_optimizer"] = {"device": "cpu"}
    path.write_text(json.dumps({"zero_optimization": zero}))
    engine = read_engine(str(path), 8, 100)
    assert (engine.stage, engine.hpz, engine.offload, engine.bucket) == (3, 4, True, 10_000)
    assert engine.name == "ZeRO-3 + offload + hpZ 4"
    assert read_engine(str(path), 1, 100).name == engine.name
    assert read_engine("zero2", 2, 100).stage == 2
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"mine\.json: no zero_optimization\.stage"):
        read_engine(str(path), 8, 100)
