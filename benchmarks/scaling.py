"""Training on one and on several GPUs of a host: speed, memory, losses. Random weights, true sizes.

    python benchmarks/scaling.py WORK_DIR RESULT_DIR [--tiny] [--cases CASE ...] [--budget SECONDS]
                                 [--meanwhile TEXT]

Every case is this project's own training function (SFT, reward model, PPO) in processes that
torch's launcher starts, under the engine that its name says; `killed_N` is `rlhf run` itself, one
of whose processes is killed, after which half of them go on, and `pipeline` all of its stages.
Cases run beside one another as long as there are GPUs for the next one. The batch of a step is the
same whatever the number of GPUs, so the losses have to be, but for the `fast` ones, where every GPU
has 64 prompts or 16 rows of its own; `cut` is the first layers, of which one GPU holds the
optimiser too.

scaling.json is written after every case, and keeps those of other calls, before this one and beside
it, each with its `host`; of a case that is measured again the result before is under `earlier`. A
case that fails or takes longer than its limit is noted as that, with what it had left; none is
begun after the budget. TEXT, what else the host did on GPUs that this call does not see, is noted
with every case. `peak_gib`: of PyTorch's allocator on every GPU, without the first optimiser step;
`whole_peak_gib`: in all.
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
from filelock import FileLock
from scaling_cases import CASES, DEFAULT, compared
from scaling_worker import measure, measure_killed, measure_pipeline, write_weights

from rlhf.runtime.devices import threads_each
from rlhf.runtime.ending import end
from rlhf.runtime.usage import versions

os.environ["NCCL_NVLS_ENABLE"] = "0"
BY_RLHF = {"killed": measure_killed, "pipeline": measure_pipeline}
"""Cases that are `rlhf run` itself, which starts its own processes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("result_dir", type=Path)
    parser.add_argument("--cases", nargs="+", default=DEFAULT, choices=CASES)
    parser.add_argument("--budget", type=int, default=480, help="seconds; none is begun later")
    parser.add_argument("--meanwhile", help="what else ran on this host meanwhile")
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
        end(0)
    else:
        run_all(arguments)


def run_all(arguments: argparse.Namespace) -> None:
    work, results, tiny = arguments.work_dir, arguments.result_dir, arguments.tiny
    results.mkdir(parents=True, exist_ok=True)
    path, start = results / "scaling.json", time.monotonic()
    host = {"host": hardware()}
    if arguments.meanwhile:
        host["meanwhile"] = arguments.meanwhile

    def keep(name: str, result: dict[str, Any]) -> None:
        note(path, name, {**host, **result}, time.monotonic() - start)
        print(name, json.dumps(result), flush=True)

    free = visible()
    waiting, running = list(arguments.cases), list[Started]()
    while waiting or running:
        while waiting and (CASES[waiting[0]].gpus <= len(free) or not running):
            name, late = waiting.pop(0), time.monotonic() - start > arguments.budget
            if late or CASES[name].gpus > len(free):
                keep(name, {"skipped": "no time left" if late else "no such machine"})
                continue
            running.append(
                Started(name, work, [free.pop(0) for _ in range(CASES[name].gpus)], tiny)
            )
        for one in [one for one in running if one.ended()]:
            running.remove(one)
            free = sorted(free + one.gpus)
            keep(one.name, one.result())
        time.sleep(0.2)


def note(path: Path, name: str, result: dict[str, Any], seconds: float) -> None:
    """Adds the case to the file, which other calls may be adding to."""
    with FileLock(f"{path}.lock"):
        found = earlier(path)
        before = found.get(name, {})
        found[name] = result
        if "rate" in before:
            found[name]["earlier"] = before
        path.write_text(json.dumps(content(found, seconds), indent=2) + "\n")


def earlier(path: Path) -> dict[str, Any]:
    """The cases that other calls left, each with the host it ran on."""
    if not path.is_file():
        return {}
    left = json.loads(path.read_text())
    return {name: {"host": left["hardware"], **case} for name, case in left["cases"].items()}


def hardware() -> str:
    if not torch.cuda.is_available():
        return "CPU"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"


def visible() -> list[str]:
    """The names of the GPUs that may be used; on a CPU two processes take their places."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return ["", ""]
    return named.split(",") if named else [str(n) for n in range(torch.cuda.device_count())]


class Started:
    """A case in processes of its own, on these GPUs."""

    def __init__(self, name: str, work: Path, gpus: list[str], tiny: bool) -> None:
        self.name, self.gpus = name, gpus
        self._path = work / f"{name}.json"
        for old in (self._path, *work.glob(f"{name}.*.failed")):
            old.unlink(missing_ok=True)
        self._log = (work / f"{name}.log").open("w")
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            self._command(work, tiny),
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": ",".join(gpus),
                "OMP_NUM_THREADS": str(threads_each(len(visible()))),
            },
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def _command(self, work: Path, tiny: bool) -> list[str]:
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        launches = len(self.gpus) > 1 and CASES[self.name].work not in BY_RLHF
        launcher = [*several, str(len(self.gpus))] if launches else []
        one = [__file__, str(work), "-", "--case", self.name]
        return [sys.executable, *launcher, *one, *(["--tiny"] if tiny else [])]

    def ended(self) -> bool:
        return self._process.poll() is not None or self._seconds() > CASES[self.name].limit

    def result(self) -> dict[str, Any]:
        """What the case left, or what went wrong with its last words."""
        self._log.close()
        took = {"seconds": round(self._seconds(), 1)}
        code, wrong = self._process.poll(), None
        if code is None:
            # Those that torch's launcher starts are in sessions of their own.
            parent = psutil.Process(self._process.pid)
            for one in (*parent.children(recursive=True), self._process):
                one.kill()
            self._process.wait()
            wrong = f"took longer than {CASES[self.name].limit} s"
        elif code or not self._path.is_file():
            wrong = f"exit code {code}"
        if wrong:
            said = self._path.parent.glob(f"{self.name}.*.failed")
            texts = [path.read_text() for path in said] or [Path(self._log.name).read_text()]
            took |= {"failed": wrong, "said": texts[0].splitlines()[-30:]}
        left = json.loads(self._path.read_text()) if self._path.is_file() else {}
        return {**left, **took}

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def content(found: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "workload": "scaling",
        "hardware": hardware(),
        "versions": versions(),
        "unit": "tokens/s and episodes/s of all GPUs together; efficiency: over those of one GPU",
        "seconds": round(seconds, 1),
        "compared": compared(found),
        "cases": found,
    }


if __name__ == "__main__":
    main()
