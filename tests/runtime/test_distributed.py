from __future__ import annotations

import random
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rlhf.config.load import load_config
from rlhf.runtime import distributed
from rlhf.runtime.distributed import (
    Runtime,
    all_sum,
    barrier,
    broadcast,
    in_order,
    is_main_process,
    make_runtime,
    once,
    own_turns,
    seed_everything,
    world_size,
)
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.run_dir import RunDir


def runtime_with(tmp_path: Path, *overrides: str, round: int | None = None) -> Runtime:
    return make_runtime(load_config("tiny", overrides), RunDir(tmp_path), round)


def test_precision_follows_the_device(tmp_path):
    on_cpu = runtime_with(tmp_path, "runtime.device=cpu")
    assert (on_cpu.device.type, on_cpu.dtype) == ("cpu", torch.float32)
    asked = runtime_with(tmp_path, "runtime.device=cpu", "runtime.precision=bfloat16")
    assert asked.dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there(tmp_path):
    assert runtime_with(tmp_path, "runtime.device=auto").device.type == "cpu"
    with pytest.raises(ValueError, match="sees no CUDA device"):
        runtime_with(tmp_path, "runtime.device=cuda")


def test_rounds(tmp_path):
    last = runtime_with(tmp_path, "rounds=3")
    assert (last.round, last.rounds, last.stage_dir("ppo")) == (3, 3, tmp_path / "ppo")
    first = runtime_with(tmp_path, "rounds=3", round=1)
    assert first.stage_dir("ppo") == tmp_path / "rounds/1/ppo"
    assert (first.key("ppo"), first.key("sft/main")) == ("rounds/1/ppo", "sft/main")


def test_seeds_reach_every_generator():
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(3)
    first = draw()
    assert draw() != first
    seed_everything(3)
    assert draw() == first
    seed_everything(2**40)


def test_a_purpose_has_random_numbers_of_its_own(tmp_path):
    runtime = runtime_with(tmp_path)
    draws = [torch.rand(3, generator=runtime.generator(purpose)) for purpose in ("a", "b", "a")]
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])
    other_round = runtime_with(tmp_path, round=1).generator("a")
    assert not torch.equal(torch.rand(3, generator=other_round), draws[0])


def test_one_process_needs_no_group():
    value = torch.tensor([1.0, 2.0])
    assert (world_size(), is_main_process(), broadcast("x")) == (1, True, "x")
    barrier()
    total = all_sum(value)
    total += 1
    assert value.tolist() == [1.0, 2.0]


def _fail(rank: int) -> None:
    raise ValueError(f"by {rank}")


def _process(rank: int, meeting: str, directory: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    value = torch.tensor([1.0, 10.0]) * (rank + 1)
    assert all_sum(value).tolist() == [3.0, 30.0]
    assert value.tolist() == [rank + 1.0, 10.0 * (rank + 1)]
    assert broadcast(f"from {rank}") == "from 0"
    assert (is_main_process(), world_size()) == (rank == 0, 2)
    assert once(lambda: f"by {rank}") == "by 0"
    with pytest.raises(ValueError, match="by 0"):  # on both
        once(partial(_fail, rank))
    dealt = {0: [(0, "a"), (2, "c")], 1: [(1, "b"), (2, "c")]}
    assert own_turns("abc") == dealt[rank]
    assert in_order({place: item.upper() for place, item in dealt[rank]}) == ["A", "B", "C"]
    with MetricsLog(Path(directory)) as log:
        log.log(1, {"rank": rank})
    barrier()
    _comes_too_late(rank, Path(meeting).with_name("given up"))
    dist.destroy_process_group()


def _comes_too_late(rank: int, sign: Path) -> None:
    """The second process does not come to the barrier; the first says so and goes on."""
    if rank == 0:
        distributed._patience["barrier"] = timedelta(seconds=1)
        with pytest.raises(RuntimeError, match="Ranks 1 failed"):
            barrier()
        sign.touch()
    while not sign.exists():
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes(tmp_path):
    mp.spawn(_process, args=(str(tmp_path / "meeting"), str(tmp_path / "log")), nprocs=2)
    assert (tmp_path / "log/metrics.jsonl").read_text() == '{"step": 1, "rank": 0}\n'
