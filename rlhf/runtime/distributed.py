"""What the processes of a run tell each other, and what a stage knows of its run.

With one process every function here works without a process group. With several (`rlhf run
--nproc`, torchrun, accelerate launch), work that one has to do goes through `once`, a value that
all have to agree on through `broadcast`, and sums through `all_sum`; a mean over items is the sum
of the items over the sum of their numbers. Tensors travel by NCCL between GPUs; objects and
barriers always by gloo, whose timeouts name the ranks that are missing.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rlhf.config.schema import Config, RuntimeSection
from rlhf.runtime.compilers import own_caches
from rlhf.runtime.devices import choose_device, choose_dtype, choose_threads
from rlhf.runtime.meeting import join, leave
from rlhf.runtime.run_dir import STAGES, RunDir

T = TypeVar("T")
Summary = Mapping[str, float | int | str | None]
_objects: dict[str, dist.ProcessGroup] = {}
"""The "group" for objects and barriers, where it is not the default one."""
_patience: dict[str, timedelta] = {}
"""The time for which a "barrier" waits; torch does not give a group's own to monitored_barrier."""


@dataclass(frozen=True)
class StageResult:
    """What a stage hands back. waiting: what it waits for, when it has not run to its end."""

    directory: Path
    summary: Summary
    waiting: str | None = None


@dataclass(frozen=True)
class Runtime:
    """What a stage needs to know of its run, beside the config. round counts from 1 to rounds.
    stages: those that the config has."""

    run_dir: RunDir
    device: torch.device
    dtype: torch.dtype
    seed: int
    round: int
    rounds: int
    console: Console
    stages: tuple[str, ...] = STAGES

    @property
    def main_process(self) -> bool:
        """Whether this process writes files and prints."""
        return is_main_process()

    def stage_dir(self, name: str) -> Path:
        """Directory of a stage in this round."""
        return self.run_dir.stage(name, self.round, self.rounds)

    def key(self, name: str) -> str:
        """Name of a stage of this round in the run's manifest."""
        return self.run_dir.key(name, self.round, self.rounds)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of each purpose's own, on the run's device: no use disturbs another."""
        digest = hashlib.sha256(f"{self.seed}:{self.round}:{purpose}".encode()).digest()
        generator = torch.Generator(self.device)
        return generator.manual_seed(int.from_bytes(digest[:7], "big"))


def make_runtime(config: Config, run_dir: RunDir, round: int | None = None) -> Runtime:
    """Chooses device and precision, seeds everything and sets the number of threads.

    round: None is the last one. Raises ValueError when the config asks for a device that is not
    there.
    """
    connect(config.runtime)
    threads = choose_threads(config.runtime)
    if threads is not None:
        torch.set_num_threads(threads)
    seed_everything(config.seed)
    device = choose_device(config.runtime)
    if device.type == "cpu":  # DeepSpeed, which accelerate imports, would warn that it looked
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return Runtime(
        run_dir=run_dir,
        device=device,
        dtype=choose_dtype(config.runtime, device),
        seed=config.seed,
        round=config.rounds if round is None else round,
        rounds=config.rounds,
        console=Console(quiet=not is_main_process()),
        stages=config.stages or STAGES,
    )


def connect(section: RuntimeSection) -> None:
    """Join the processes that a launcher has started; nothing where it has started none.

    Raises ValueError when the launcher has not said where to meet, RuntimeError when some are late.
    """
    alone = "RANK" not in os.environ and int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or _grouped():
        return
    lacking = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if lacking:
        raise ValueError(
            f"several processes, but {', '.join(lacking)} not set; start with torchrun, or unset "
            "WORLD_SIZE and RANK"
        )
    own_caches(int(os.environ.get("LOCAL_RANK", "0")))
    on_gpu = choose_device(section).type == "cuda"
    timeout = _patience["barrier"] = timedelta(seconds=section.timeout)
    join("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout)
    if on_gpu:
        _objects["group"] = dist.new_group(backend="gloo", timeout=timeout)


def disconnect() -> None:
    """Leave the group of processes, at the end of a run."""
    if _grouped():
        _objects.clear()
        _patience.clear()
        leave()


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def world_size() -> int:
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """Number of this process, from 0, which is the main one."""
    return dist.get_rank() if _grouped() else 0


def is_main_process() -> bool:
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here.

    Raises RuntimeError on the main process after `runtime.timeout`, naming the ranks that are not.
    """
    if _grouped():
        dist.monitored_barrier(_objects.get("group"), _patience.get("barrier"), wait_all_ranks=True)


def once(work: Callable[[], T]) -> T:
    """What the main process's `work` returns, on every process; the others wait for it.

    What it raises, every process raises: none is left waiting.
    """
    if not _grouped():
        return work()
    result: T | None = None
    failure: Exception | None = None
    if is_main_process():
        try:
            result = work()
        except Exception as error:
            failure = error
    result, failure = broadcast((result, failure))
    if failure is not None:
        raise failure
    return cast(T, result)


def all_sum(value: Tensor) -> Tensor:
    """value: any shape, the same on every process. Returns a new tensor: the sum over processes."""
    total = value.detach().clone()
    if _grouped():
        dist.all_reduce(total)
    return total


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Put the sum over processes in place of every gradient, the same parameters having one.

    Those of weights that are spread over the processes (DTensor) have been summed already.
    """
    if _grouped():
        summed = (p.grad for p in parameters if not isinstance(p, DTensor))
        gradients = (gradient for gradient in summed if gradient is not None)
        for sent in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            sent.wait()


def gather(value: T) -> list[T]:
    """Every process's value, in the order of their ranks, on every process."""
    if not _grouped():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_objects.get("group"))
    return values


def own_part(items: int) -> slice:
    """This process's run of so many items: the parts follow one another in the order of ranks."""
    return slice(rank() * items // world_size(), (rank() + 1) * items // world_size())


def own_turns(items: Sequence[T]) -> list[tuple[int, T]]:
    """This process's items with their places in the list, dealt out in turn.

    Every process has as many, because a model whose weights are spread over the processes needs all
    of them at each step: some are dealt out twice where the processes do not divide them.
    """
    if not items:
        return []
    last = len(items) - 1
    places = range(rank(), -(-len(items) // world_size()) * world_size(), world_size())
    return [(place, items[place]) for place in (min(place, last) for place in places)]


def in_order(found: Mapping[int, T]) -> list[T]:
    """What every process has found of a list that `own_turns` dealt out, by place: the whole."""
    whole: dict[int, T] = {}
    for part in gather(found):
        whole |= part
    return [whole[place] for place in range(len(whole))]


def broadcast(value: T) -> T:
    """The main process's value, on every process."""
    if not _grouped():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_objects.get("group"))
    return values[0]


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
