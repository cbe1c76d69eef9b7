"""Seconds and memory of a PPO iteration at true size on one GPU: random weights, four roles, LoRA.

    python benchmarks/ppo.py WORK_DIR RESULT_DIR [--tiny] [--cases CASE ...]

Cases: ppo_32, ppo_128 (that many prompts of 256 tokens, 256 new ones, one epoch, LoRA of rank 16 on
every linear layer, on one bf16 trunk), ppo_nf4 (as ppo_32, on a 4-bit trunk) and ppo_13b (as
ppo_32, the ALiBi model). Each runs this project's own loop in a process of its own, and gives a
file. `phases` are medians too. Random weights end no answer early: every one has all its tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import random_models
import torch

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import PPOSection
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_reward_model, load_tokenizer
from rlhf.models.roles import build_roles
from rlhf.ppo import loop
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.usage import versions
from rlhf.training.common import prepare

CASES = {
    "ppo_32": ("baichuan2-7b", 32, "lora"),
    "ppo_128": ("baichuan2-7b", 128, "lora"),
    "ppo_nf4": ("baichuan2-7b", 32, "qlora"),
    "ppo_13b": ("baichuan2-13b", 32, "lora"),
}
ITERATIONS = 4
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPE = torch.bfloat16 if CUDA else torch.float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("result_dir", type=Path)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--microbatch", type=int, default=4)
    parser.add_argument("--case", help="for the script's own use: measure this one alone")
    arguments = parser.parse_args()
    work: Path = arguments.work_dir
    if arguments.case:
        result = measure(arguments.case, work, arguments.tiny, arguments.microbatch)
        print(json.dumps(result))
        return
    flags = ["--microbatch", str(arguments.microbatch), *(["--tiny"] if arguments.tiny else [])]
    arguments.result_dir.mkdir(parents=True, exist_ok=True)
    written = None
    for case in arguments.cases:
        name = CASES[case][0]
        if written != name:
            shutil.rmtree(work, ignore_errors=True)
            write_models(work, name, arguments.tiny)
            written = name
        command = [sys.executable, __file__, str(work), "-", "--case", case, *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(case, "failed", done.stdout[-2000:], flush=True)
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        path = arguments.result_dir / f"{case}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(result), flush=True)
    shutil.rmtree(work)


def write_models(work: Path, name: str, tiny: bool, layers: int | None = None) -> None:
    """A random language model in `base`, and in `reward` an adapter on it with a scalar head."""
    random_models.write_base(work / "base", name, tiny=tiny, dtype=DTYPE, layers=layers)
    section = load_config(resource("configs/baichuan2_7b.yaml"), []).rm
    model = load_reward_model(work / "base", dtype=DTYPE, device=DEVICE)
    tuned = prepare(model, section, "reward", 0)
    tokenizer = load_tokenizer(work / "base")
    save_reward_model(tuned, tokenizer, work / "reward", score_mean=0.0, score_std=1.0)
    del model, tuned
    if CUDA:
        torch.cuda.empty_cache()


def measure(case: str, work: Path, tiny: bool, microbatch: int) -> dict[str, Any]:
    _, prompts, method = CASES[case]
    size = 16 if tiny else 256
    section = ppo_section(prompts, size, method, microbatch)
    roles = build_roles(
        "shared",
        work / "base",
        work / "reward",
        tuning=section.tuning,
        dtype=DTYPE,
        device=DEVICE,
    )
    # Reads every weight twice, outside the iterations.
    roles.frozen_fingerprint = lambda: "not taken here"  # type: ignore[method-assign]
    vocabulary = roles.tokenizer.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(200, vocabulary, (4 * prompts, size), generator=generator).tolist()
    clock = Clock()
    for name in ("sample", "make_experience", "update"):
        setattr(loop, name, clock.timed(name, getattr(loop, name)))
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "out").mkdir()
    with MetricsLog(work / "out", ()) as metrics:
        loop.train(
            roles,
            ids,
            section,
            score_statistics=(0.0, 1.0),
            output_dir=work / "out",
            seed=0,
            metrics=metrics,
            on_iteration=lambda done, of, shown: clock.iteration(),
        )
    rows = [json.loads(line) for line in (work / "out" / "metrics.jsonl").read_text().splitlines()]
    seconds = clock.median_iteration()
    return {
        "workload": case,
        "hardware": torch.cuda.get_device_name() if CUDA else "CPU",
        "versions": versions(),
        "ours": round(seconds, 3),
        "unit": "seconds an iteration",
        "episodes_s": round(prompts / seconds, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if CUDA else None,
        "phases": clock.phases(),
        "iterations": [round(each, 3) for each in clock.iterations],
        "settings": {"prompts": prompts, "tokens": size, "microbatch": microbatch},
        "metrics": rows[-1],
    }


def ppo_section(prompts: int, size: int, method: str, microbatch: int) -> PPOSection:
    """The published config's, at these sizes, with an actor that learns from the start."""
    section = load_config(resource("configs/baichuan2_7b.yaml"), []).ppo
    few = {
        "iterations": ITERATIONS,
        "critic_warmup": 0,
        "rollout_batch": prompts,
        "responses_per_prompt": 1,
        "minibatch": min(prompts, 32),
        "microbatch": microbatch,
        "epochs": 1,
        "max_prompt_tokens": size,
        "gradient_checkpointing": False,
        "checkpoint_every": ITERATIONS,
        "sampling": section.sampling.model_copy(update={"max_new_tokens": size}),
        "tuning": section.tuning.model_copy(update={"method": method, "r": 16}),
    }
    return section.model_copy(update=few)


class Clock:
    """Wall seconds of iterations and of their phases; the first of each warms up."""

    def __init__(self) -> None:
        self.iterations: list[float] = []
        self._phases: dict[str, list[float]] = {}
        self._last: float | None = None

    def iteration(self) -> None:
        now = self._now()
        if self._last is not None:
            self.iterations.append(now - self._last)
        self._last = now

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            result = work(*args, **kwargs)
            self._phases.setdefault(name, []).append(self._now() - start)
            return result

        return run

    def median_iteration(self) -> float:
        """Without the last, at whose end a checkpoint is written."""
        return statistics.median(self.iterations[:-1] or self.iterations)

    def phases(self) -> dict[str, float]:
        return {
            name: round(statistics.median(taken[1:]), 3) for name, taken in self._phases.items()
        }

    @staticmethod
    def _now() -> float:
        if CUDA:
            torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    main()
