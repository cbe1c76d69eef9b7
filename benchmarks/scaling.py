"""Training on one and on several GPUs of a host: speed, memory, losses. Random weights, true sizes.

    python benchmarks/scaling.py WORK_DIR RESULT_DIR [--tiny] [--cases CASE ...] [--budget SECONDS]

Every case is this project's own training function (SFT, reward model, PPO) in processes that
torch's launcher starts, under the engine that its name says; `killed_N` is `rlhf run` itself, one
of whose processes is killed, after which half of them go on, and `pipeline` all of its stages.
Cases of one GPU run beside one another where there are several. The batch of a step is the same
whatever the number of GPUs, so the losses have to be; `cut` is the first 8 layers, of which one GPU
holds the optimiser too.

scaling.json is written after every case, and keeps those of an earlier call. A case that fails or
takes longer than its limit is noted as that; none is begun after the budget. `peak_gib`: of
PyTorch's allocator on every GPU, without the first optimiser step; `whole_peak_gib`: in all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from scaling_cases import CASES, DEFAULT, compared
from scaling_worker import measure, measure_killed, measure_pipeline, write_weights

from rlhf.runtime.usage import versions

os.environ["NCCL_NVLS_ENABLE"] = "0"
BY_RLHF = {"killed": measure_killed, "pipeline": measure_pipeline}
"""Cases that are `rlhf run` itself, which starts its own processes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("result_dir", type=Path)
    parser.add_argument("--cases", nargs="+", default=DEFAULT, choices=CASES)
    parser.add_argument("--budget", type=int, default=480, help="seconds")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--case", help="for the script's own use: be one process of this one")
    parser.add_argument("--write", help="for the script's own use: write this one's weights")
    arguments = parser.parse_args()
    work: Path = arguments.work_dir
    work.mkdir(parents=True, exist_ok=True)
    if arguments.write:
        write_weights(CASES[arguments.write], work, arguments.tiny)
    elif arguments.case and CASES[arguments.case].work in BY_RLHF:
        BY_RLHF[CASES[arguments.case].work](arguments.case, work, arguments.tiny)
    elif arguments.case:
        measure(arguments.case, work, arguments.tiny)
    else:
        run_all(arguments.cases, work, arguments.result_dir, arguments.budget, arguments.tiny)


def run_all(names: list[str], work: Path, results: Path, budget: int, tiny: bool) -> None:
    results.mkdir(parents=True, exist_ok=True)
    path, start = results / "scaling.json", time.monotonic()
    found: dict[str, Any] = json.loads(path.read_text())["cases"] if path.is_file() else {}
    for group in groups(names):
        if time.monotonic() - start > budget:
            found |= {name: {"skipped": "no time left"} for name in group}
        else:
            found |= run_group(group, work, tiny)
        path.write_text(json.dumps(content(found, time.monotonic() - start), indent=2) + "\n")
        for name in group:
            print(name, json.dumps(found[name]), flush=True)


def groups(names: list[str]) -> list[list[str]]:
    """Cases of one GPU together, as many as there are GPUs; every other one alone."""
    beside = max(1, torch.cuda.device_count())
    single = [name for name in names if CASES[name].gpus == 1]
    packed = [single[at : at + beside] for at in range(0, len(single), beside)]
    return packed + [[name] for name in names if name not in single]


def run_group(group: list[str], work: Path, tiny: bool) -> dict[str, Any]:
    """Each case's result by name, those of one group measured at the same time."""
    for name in group:
        if CASES[name].work == "ppo":
            done = Started([sys.executable, __file__, str(work), "-", "--write", name], tiny, 0)
            done.wait(CASES[name].limit)
    started = {}
    for place, name in enumerate(group):
        (work / f"{name}.json").unlink(missing_ok=True)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        gpus = CASES[name].gpus
        launches = gpus > 1 and CASES[name].work not in BY_RLHF
        several = [*launcher, str(gpus)] if launches else []
        command = [sys.executable, *several, __file__, str(work), "-", "--case", name]
        started[name] = Started(command, tiny, None if gpus > 1 else place)
    return {name: each.result(work / f"{name}.json", name) for name, each in started.items()}


class Started:
    """A command in a process of its own. gpu: the one that it sees, None for all."""

    def __init__(self, command: list[str], tiny: bool, gpu: int | None) -> None:
        one = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, *(["--tiny"] if tiny else [])],
            env={**os.environ, **one},
            stdout=sys.stderr,
        )

    def wait(self, limit: float) -> str | None:
        """What went wrong, if anything did."""
        try:
            code = self.process.wait(max(1.0, limit - (time.monotonic() - self.began)))
        except subprocess.TimeoutExpired:
            # Those that torch's launcher starts are in sessions of their own.
            for one in (*psutil.Process(self.process.pid).children(recursive=True), self.process):
                one.kill()
            self.process.wait()
            return f"took longer than {limit} s"
        return f"exit code {code}" if code else None

    def result(self, path: Path, name: str) -> dict[str, Any]:
        wrong = self.wait(CASES[name].limit)
        took = {"seconds": round(time.monotonic() - self.began, 1)}
        if wrong or not path.is_file():
            return {"failed": wrong or "no result", **took}
        return {**json.loads(path.read_text()), **took}


def content(found: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "workload": "scaling",
        "hardware": f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
        if torch.cuda.is_available()
        else "CPU",
        "versions": versions(),
        "unit": "tokens/s and episodes/s of all GPUs together; efficiency: over those of one GPU",
        "seconds": round(seconds, 1),
        "compared": compared(found),
        "cases": found,
    }


if __name__ == "__main__":
    main()
