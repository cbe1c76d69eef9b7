"""Two processes: one stays away, and the other says so."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rlhf.config.load import load_config
from rlhf.config.schema import RuntimeSection
from rlhf.runtime import alike
from rlhf.runtime.distributed import all_sum, connect, gather
from rlhf.runtime.watchdog import Watchdog, place

PATIENCE = 1.0


def dawdle(sign: Path) -> None:
    """Until the others have been told of."""
    while not sign.exists():
        time.sleep(0.01)


def process(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(0, 60))
    said = folder / f"said-{rank}"
    dog = Watchdog(PATIENCE, store, said.write_text)
    dog.start()
    if rank == 1:
        dawdle(folder / "said-0")
    assert all_sum(torch.ones(1)).item() == 2
    dog.end()
    differ = {"torch": "2.0", "commit": f"{rank}"} if rank else {"torch": "1.0", "commit": "a"}
    alike.versions = lambda: differ
    with pytest.raises(ValueError, match=r"torch is 1.0 in process 0 on .* and 2.0 in process 1"):
        alike.check_alike(load_config("tiny"))
    alike.versions = dict
    alike.check_alike(load_config("tiny"))
    gather(rank)
    dist.destroy_process_group()


@pytest.mark.slow
def test_who_keeps_the_others_waiting(tmp_path: Path) -> None:
    mp.spawn(process, args=(tmp_path,), nprocs=2)
    said = (tmp_path / "said-0").read_text()
    assert "process 0 is in all_reduce at rlhf/runtime/distributed.py:" in said
    assert "(all_sum) for" in said
    assert "process 1 is at " in said and "(dawdle)" in said


def test_where_a_thread_stands() -> None:
    assert place(None) == "at its end"
    here = place(sys._getframe())
    assert here.endswith("(test_where_a_thread_stands)")


def test_processes_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"process 0 has waited 1 s at localhost:.* for all 2"):
        connect(RuntimeSection(device="cpu", timeout=1))
