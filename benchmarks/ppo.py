"""Seconds and memory of a PPO iteration at true size on one GPU: random weights, four roles, LoRA.

    python benchmarks/ppo.py WORK_DIR RESULT_DIR [--tiny] [--cases CASE ...] [--trl FOLDER]

Cases: ppo_32, ppo_128 (that many prompts of 256 tokens, 256 new ones, one epoch, LoRA of rank 16 on
every linear layer, on one bf16 trunk), ppo_nf4 (as ppo_32, on a 4-bit trunk), ppo_13b (as ppo_32,
the ALiBi model), ppo_32_uneven (as ppo_32, prompts of 32 to 256 tokens; `masked` is with rows that
are not moved to the left), and growth_PROMPTS_TOKENS (how an iteration grows with prompts, and with
tokens of prompt and answer each). Each runs this project's own loop, once with every set of options
named, in processes of their own, and gives a file: the fastest set, and all of them under
`options`. `phases` are medians too. Random weights end few answers early: nearly all have all their
tokens.

FOLDER is what `pip install --no-deps --target FOLDER trl==1.12.0` made, the last TRL with PPO. With
it ppo_32 is also measured with that, on a Llama of the same shape, at each of three microbatch
sizes, of which the fastest counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import random_models
import torch
from gpu_time import gpu_time

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import PPOSection
from rlhf.models.baichuan.trunk import BaichuanModel
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_reward_model, load_tokenizer
from rlhf.models.roles import build_roles
from rlhf.ppo import loop
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.usage import versions
from rlhf.training.common import prepare


@dataclass(frozen=True)
class Case:
    """tokens: of every prompt, and of every answer. shortest: of the shortest prompt, where they
    are uneven. iterations: two that warm up, those that count, and one more, at whose end a
    checkpoint is written."""

    prompts: int
    model: str = "baichuan2-7b"
    method: str = "lora"
    tokens: int = 256
    iterations: int = 5
    shortest: int | None = None


GROWTH = ((16, 256), (64, 256), (256, 256), (32, 512), (32, 1024), (32, 2048))
CASES = {
    "ppo_32": Case(32),
    "ppo_128": Case(128),
    "ppo_nf4": Case(32, method="qlora"),
    "ppo_13b": Case(32, "baichuan2-13b"),
    "ppo_32_uneven": Case(32, shortest=32),
    **{
        f"growth_{prompts}_{tokens}": Case(prompts, tokens=tokens, iterations=4)
        for prompts, tokens in GROWTH
    },
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"microbatch": 4},
    "eager": {"old_logprobs": "engine", "microbatch": 8, "scoring_microbatch": 32},
    "small": {"old_logprobs": "engine", "microbatch": 2, "scoring_microbatch": 16},
    "middling": {"old_logprobs": "engine", "microbatch": 4, "scoring_microbatch": 16},
    "again": {
        "gradient_checkpointing": True,
        "old_logprobs": "engine",
        "microbatch": 8,
        "scoring_microbatch": 16,
    },
    "compiled": {
        "compile": True,
        "old_logprobs": "engine",
        "microbatch": 8,
        "scoring_microbatch": 32,
    },
    "long": {
        "compile": True,
        "gradient_checkpointing": True,
        "old_logprobs": "engine",
        "microbatch": 4,
        "scoring_microbatch": 4,
    },
}
"""Of the config's `ppo`, beside what CASES says."""
OPTIONS["masked"] = OPTIONS["compiled"]
CASE_OPTIONS = {
    "ppo_32": ("eager", "compiled", "plain"),
    "ppo_nf4": ("small", "middling", "again"),
    "ppo_13b": ("eager", "compiled"),
    "ppo_32_uneven": ("compiled", "masked"),
    **{name: ("long",) for name, case in CASES.items() if case.tokens > 256},
}
"""Which of them a case is measured with; eager and compiled where it is not named."""
TRL_MICROBATCHES = (8, 4, 16)
WARM = 2
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPE = torch.bfloat16 if CUDA else torch.float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("result_dir", type=Path)
    published = [name for name in CASES if name.startswith("ppo")]
    parser.add_argument("--cases", nargs="+", default=published, choices=CASES)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--options", nargs="+", choices=OPTIONS, help="those of a case to measure")
    parser.add_argument("--trl", type=Path, help="folder with trl==1.12.0")
    parser.add_argument(
        "--profile", action="store_true", help="tell where each phase's time goes, in the result"
    )
    parser.add_argument("--one", nargs=2, help="for the script's own use: measure this one alone")
    arguments = parser.parse_args()
    if arguments.one:
        if arguments.tiny:
            torch.compiler.set_stance("force_eager")  # a C++ compiler takes minutes
        print(json.dumps(one(arguments)))
        return
    arguments.result_dir.mkdir(parents=True, exist_ok=True)
    written = None
    for case in arguments.cases:
        name = CASES[case].model
        if written != name:
            shutil.rmtree(arguments.work_dir, ignore_errors=True)
            write_models(arguments.work_dir, name, arguments.tiny)
            written = name
        found: dict[str, dict[str, Any]] = {}
        theirs: dict[str, dict[str, Any]] = {}
        usual = CASE_OPTIONS.get(case, ("compiled", "eager"))
        for options in [o for o in usual if o in (arguments.options or usual)]:
            found[options] = process(arguments, case, options)
            write(arguments.result_dir, case, found, theirs)
        if arguments.trl and case == "ppo_32":
            for size in TRL_MICROBATCHES:
                theirs[f"microbatch {size}"] = process(arguments, case, f"trl {size}")
                write(arguments.result_dir, case, found, theirs)
    shutil.rmtree(arguments.work_dir)


def process(arguments: argparse.Namespace, case: str, options: str) -> dict[str, Any]:
    """One measurement, in a process of its own; what it came to, or its last words."""
    flags = [f"--{name}" for name in ("tiny", "profile") if getattr(arguments, name)]
    environment = dict(os.environ)
    if options.startswith("trl"):
        environment["PYTHONPATH"] = f"{arguments.trl}:{environment.get('PYTHONPATH', '')}"
    command = [sys.executable, __file__, str(arguments.work_dir), "-", "--one", case, options]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, env=environment)
    if done.returncode:
        print(case, options, done.stdout[-20_000:], done.stderr[-3000:], flush=True)
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(case, options, json.dumps(result), flush=True)
    return result


def write(
    result_dir: Path,
    case: str,
    found: dict[str, dict[str, Any]],
    theirs: dict[str, dict[str, Any]],
) -> None:
    """The case's file: the fastest of ours, beside the fastest of TRL's."""
    worked = {name: result for name, result in found.items() if "seconds" in result}
    if not worked:
        return
    fastest = min(worked, key=lambda name: worked[name]["seconds"])
    best = worked[fastest]
    content = {
        "workload": case,
        "hardware": torch.cuda.get_device_name() if CUDA else "CPU",
        "versions": versions(),
        "ours": best["seconds"],
        "ours_is": f"options {fastest}",
        "unit": "seconds an iteration",
        "episodes_s": best["episodes_s"],
        "peak_gib": best["peak_gib"],
        "options": found,
    }
    measured = [result["seconds"] for result in theirs.values() if "seconds" in result]
    if measured:
        content |= {"baseline": min(measured), "baseline_is": "TRL 1.12.0, the best of `trl`"}
        content["ratio"] = round(min(measured) / best["seconds"], 2)
    content |= {"trl": theirs} if theirs else {}
    path = result_dir / f"{case}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    case, options = arguments.one
    chosen = CASES[case]
    size = chosen.tokens // 16 if arguments.tiny else chosen.tokens
    if options.startswith("trl"):
        return with_trl(arguments.work_dir, chosen.prompts, size, int(options.split()[1]))
    section = ppo_section(chosen, size, OPTIONS[options])
    BaichuanModel.aligns_rows = options != "masked"
    shortest = size * chosen.shortest // chosen.tokens if chosen.shortest else size
    return with_rlhf(arguments.work_dir, section, (shortest, size), arguments.profile)


def with_rlhf(
    work: Path, section: PPOSection, sizes: tuple[int, int], profiled: bool
) -> dict[str, Any]:
    """sizes: tokens of the shortest prompt and of the longest."""
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
    clock = Clock()
    for name in ("sample", "make_experience", "update"):
        setattr(loop, name, clock.timed(name, getattr(loop, name)))
    reset_peak()
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with MetricsLog(out, ()) as metrics:
        loop.train(
            roles,
            uneven(
                random_prompts(roles.tokenizer.vocab_size, 4 * section.rollout_batch, sizes[1]),
                *sizes,
            ),
            section,
            score_statistics=(0.0, 1.0),
            output_dir=out,
            seed=0,
            metrics=metrics,
            on_iteration=lambda done, of, shown: clock.iteration(
                profiled and done == section.iterations - 1
            ),
        )
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = clock.median_iteration()
    return {
        "seconds": round(seconds, 3),
        "episodes_s": round(section.rollout_batch / seconds, 2),
        "peak_gib": peak_gib(),
        "phases": clock.phases(),
        "iterations": [round(each, 3) for each in clock.iterations],
        "settings": {
            "prompts": section.rollout_batch,
            "tokens": sizes[1],
            "microbatch": section.microbatch,
        },
        "metrics": rows[-1],
    } | ({"profile": clock.profile} if clock.profile else {})


def with_trl(work: Path, prompts: int, size: int, microbatch: int) -> dict[str, Any]:
    """TRL's own train(): LoRA on the actor, whose reference is the same without it, and a reward
    and a value model with weights of their own, as it is used."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    clock = Clock()

    class Iterations(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            clock.iteration()

    config = random_models.config_of(work / "base", llama=True)
    config.num_labels = 1

    def random_model(kind: Any) -> Any:
        torch.manual_seed(0)
        with torch.device(DEVICE):
            return kind.from_config(config, dtype=DTYPE)

    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    ids = random_prompts(config.vocab_size, prompts * 5, size)
    reset_peak()
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(work / "trl"),
            per_device_train_batch_size=microbatch,
            gradient_accumulation_steps=prompts // microbatch,
            local_rollout_forward_batch_size=microbatch,
            num_mini_batches=1,
            num_ppo_epochs=1,
            total_episodes=prompts * 4,
            num_sample_generations=0,
            response_length=size,
            temperature=1.0,
            gradient_checkpointing=False,
            bf16=CUDA,
            use_cpu=not CUDA,
            save_strategy="no",
            report_to="none",
        ),
        processing_class=load_tokenizer(work / "base"),
        model=random_model(AutoModelForCausalLM),
        ref_model=None,
        reward_model=random_model(AutoModelForSequenceClassification),
        value_model=random_model(AutoModelForSequenceClassification),
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        peft_config=lora,
        callbacks=[Iterations()],
    )
    trainer.train()
    seconds = statistics.median(clock.iterations)
    return {
        "seconds": round(seconds, 3),
        "episodes_s": round(prompts / seconds, 2),
        "peak_gib": peak_gib(),
        "iterations": [round(each, 3) for each in clock.iterations],
    }


def random_prompts(vocabulary: int, count: int, size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    ids: list[list[int]] = torch.randint(
        200, vocabulary, (count, size), generator=generator
    ).tolist()
    return ids


def uneven(prompts: list[list[int]], shortest: int, longest: int) -> list[list[int]]:
    """Cut to lengths from `shortest` to `longest`."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest + 1, (len(prompts),), generator=generator)
    return [prompt[:length] for prompt, length in zip(prompts, lengths.tolist(), strict=True)]


def reset_peak() -> None:
    if CUDA:
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if CUDA else 0.0


def ppo_section(case: Case, size: int, options: dict[str, Any]) -> PPOSection:
    """The published config's, at the case's sizes, with an actor that learns from the start.

    size: the case's tokens, or a tiny number instead.
    """
    section = load_config(resource("configs/baichuan2_7b.yaml"), []).ppo
    few = {
        "iterations": case.iterations,
        "critic_warmup": 0,
        "rollout_batch": case.prompts,
        "responses_per_prompt": 1,
        "minibatch": min(case.prompts, 32),
        "epochs": 1,
        "max_prompt_tokens": size,
        "gradient_checkpointing": False,
        "checkpoint_every": case.iterations,
        "sampling": section.sampling.model_copy(update={"max_new_tokens": size}),
        "tuning": section.tuning.model_copy(update={"method": case.method, "r": 16}),
        **options,
    }
    return section.model_copy(update=few)


class Clock:
    """Wall seconds of iterations and of their phases; the first two of each warm up: the graphs of
    the second see other lengths."""

    def __init__(self) -> None:
        self.iterations: list[float] = []
        self._phases: dict[str, list[float]] = {}
        self._last: float | None = None
        self._profiling = False
        self.profile: dict[str, dict[str, Any]] = {}

    def iteration(self, profile_next: bool = False) -> None:
        now = self._now()
        if self._last is not None:
            self.iterations.append(now - self._last)
        self._last = now
        self._profiling = profile_next

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            profiler = self._started() if self._profiling else None
            start = self._now()
            result = work(*args, **kwargs)
            seconds = self._now() - start
            self._phases.setdefault(name, []).append(seconds)
            if profiler:
                profiler.stop()
                self.profile[name] = {"seconds": round(seconds, 3), **gpu_time(profiler)}
            return result

        return run

    def median_iteration(self) -> float:
        """Without the last, at whose end a checkpoint is written."""
        return statistics.median(self.iterations[WARM - 1 : -1])

    def phases(self) -> dict[str, float]:
        """Of the iterations that `median_iteration` takes, or of the only one."""
        counted = {name: taken[WARM:-1] or taken[WARM:] for name, taken in self._phases.items()}
        return {name: round(statistics.median(taken), 3) for name, taken in counted.items()}

    @staticmethod
    def _started() -> Any:
        kind = torch.profiler.ProfilerActivity
        profiler = torch.profiler.profile(activities=[kind.CUDA if CUDA else kind.CPU])
        profiler.start()
        return profiler

    @staticmethod
    def _now() -> float:
        if CUDA:
            torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    main()
