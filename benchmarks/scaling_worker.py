"""What one process of a case of scaling.py does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ppo as ppo_alone
import psutil
import random_models
import rm as rm_alone
import torch
import true_size
from datasets import Dataset
from scaling_cases import CASES, Case
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import RuntimeSection
from rlhf.models.load import load_tokenizer
from rlhf.models.roles import build_roles
from rlhf.ppo import loop
from rlhf.runtime.distributed import connect, disconnect, gather, is_main_process
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.run_dir import RunDir
from rlhf.training import reward, sft
from rlhf.training.engine import read_engine

CUDA = torch.cuda.is_available()
PEAK_FLOPS = 989e12
"""Of an H100 in bfloat16, dense, as the maker states."""
STEPS, WARM = 8, 3
ROWS, LENGTH = 16, 2048
PAIRS = rm_alone.Case(prompts=16, at_once=2, k=2, prompt=0, response=512, share=False)
PROMPTS, TOKENS, AT_ONCE = 64, 256, 32


def measure(name: str, work: Path, tiny: bool) -> None:
    """Trains for a few steps; the main process leaves what was found in `work`/NAME.json."""
    case = CASES[name]
    runtime = RuntimeSection(deepspeed=case.engine)
    connect(runtime)
    out = work / name
    if is_main_process():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
    gather(None)
    peaks = Peaks()
    with MetricsLog(out, ()) as metrics:
        works = {"sft": measure_sft, "rm": measure_rm, "ppo": measure_ppo}
        found = works[case.work](case, work, out, metrics, peaks, tiny)
    found["peak_gib"], found["whole_peak_gib"] = gather(peaks.late), gather(peaks.whole)
    if is_main_process():
        (work / f"{name}.json").write_text(json.dumps(found))
        shutil.rmtree(out)
    disconnect()


class Peaks:
    """GiB of this process's allocator: `late` from the first optimiser step on, `whole` in all."""

    def __init__(self) -> None:
        self.late = self.whole = 0.0
        self._hook = register_optimizer_step_post_hook(self._first_step)

    def read(self) -> None:
        if CUDA:
            self.late = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            self.whole = max(self.whole, self.late)

    def _first_step(self, *_: Any) -> None:
        self.read()
        self._hook.remove()
        if CUDA:
            torch.cuda.reset_peak_memory_stats()


def model_of(case: Case, work: Path, tiny: bool, kind: Any) -> tuple[Any, Any]:
    """A random model, made on this process's device, and its tokenizer."""
    base = work / f"described-{case.model}-{case.layers}-{os.environ.get('RANK', '0')}-{case.gpus}"
    random_models.describe(base, case.model, tiny=tiny, layers=case.layers)
    config = random_models.config_of(base, llama=False)
    config.num_labels = 1
    torch.manual_seed(0)
    with torch.device("cuda" if CUDA else "cpu"):
        model = kind.from_config(config, dtype=torch.bfloat16 if CUDA else torch.float32)
    model.name_or_path = str(base)
    return model, load_tokenizer(base)


@contextmanager
def unsaved(module: Any, peaks: Peaks) -> Iterator[None]:
    """No checkpoints and no model at the end: they are the disk's speed, and tens of GB."""
    arguments = module.arguments
    module.arguments = lambda *a, **k: {**arguments(*a, **k), "save_strategy": "no"}
    module.save_whole = lambda model, save: peaks.read()
    yield


def section_of(case: Case, stage: str, **changes: Any) -> Any:
    """The published config's, of the whole model or of adapters, for these few steps."""
    suffix = "_full" if case.method == "full" else ""
    section = getattr(load_config(resource(f"configs/baichuan2_7b{suffix}.yaml"), []), stage)
    optimiser = {"schedule": "constant", "warmup_steps": 0, "learning_rate": 1e-4}
    changes["optimiser"] = section.optimiser.model_copy(update=optimiser)
    changes["tuning"] = section.tuning.model_copy(update={"dropout": 0.0})
    few = {"max_steps": STEPS, "eval_every": STEPS, "gradient_checkpointing": True}
    return section.model_copy(update={**few, **changes})


class Steps:
    """Seconds and losses of optimiser steps, as the main process logs them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def __call__(self, step: int, total: int, fields: dict[str, float]) -> None:
        if "loss" in fields:
            if CUDA:
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())
            self.losses.append(fields["loss"])

    def result(self, case: Case, items: int, unit: str, flops: float) -> dict[str, Any]:
        """items, flops: of a step, of all processes together."""
        if not self.times:
            return {}
        gaps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)][WARM - 1 :]
        seconds = statistics.median(gaps)
        found = {"rate": round(items / seconds, 3), "unit": unit, "losses": self.losses}
        found |= {"seconds_a_step": round(seconds, 4), "steps": [round(gap, 4) for gap in gaps]}
        if CUDA:
            found["mfu"] = round(flops / seconds / PEAK_FLOPS / case.gpus, 3)
        return found


def flops(model: Any, case: Case, tokens: int, length: int) -> float:
    """Of training on so many tokens: forward and backward, without what checkpointing repeats.

    Frozen weights have no gradient of their own; attention is half of its square.
    """
    config = model.config
    weights = model.num_parameters() - model.get_input_embeddings().weight.numel()
    attention = 2 * config.num_hidden_layers * config.hidden_size * length
    return (3 if case.method == "full" else 2) * tokens * float(2 * weights + attention)


def measure_sft(
    case: Case, work: Path, out: Path, metrics: MetricsLog, peaks: Peaks, tiny: bool
) -> dict[str, Any]:
    length = 32 if tiny else LENGTH
    model, tokenizer = model_of(case, work, tiny, AutoModelForCausalLM)
    generator = torch.Generator().manual_seed(0)
    # Few kinds of tokens, so that there is something to learn in a few steps.
    ids = torch.randint(200, 450 if tiny else 4000, (2 * ROWS, length), generator=generator)
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})
    section = section_of(
        case,
        "sft",
        batch_size=ROWS,
        microbatch_size=2 if case.method == "lora" else 1,
        packing=False,
        loss_chunk=None if (case.engine or "").startswith("zero3") else 1024,
    )
    steps, work_of_step = Steps(), flops(model, case, ROWS * length, length)
    with unsaved(sft, peaks):
        sft.train_sft(
            model,
            tokenizer,
            rows,
            rows.select(range(2)),
            section,
            output_dir=out,
            seed=0,
            metrics=metrics,
            on_log=steps,
            engine=read_engine(RuntimeSection(deepspeed=case.engine)),
        )
    return steps.result(case, ROWS * length, "tokens/s", work_of_step)


def measure_rm(
    case: Case, work: Path, out: Path, metrics: MetricsLog, peaks: Peaks, tiny: bool
) -> dict[str, Any]:
    pairs = PAIRS.scaled(16) if tiny else PAIRS
    model, tokenizer = model_of(case, work, tiny, rm_alone.AutoModelForSequenceClassification)
    section = section_of(
        case, "rm", batch_size=pairs.prompts, microbatch_size=pairs.at_once, compile=False
    )
    tokens = pairs.responses * pairs.response
    steps, work_of_step = Steps(), flops(model, case, tokens, pairs.response)
    with unsaved(reward, peaks):
        reward.train_reward_model(
            model,
            tokenizer,
            rm_alone.rankings(pairs, model.config.vocab_size, 2 * pairs.prompts),
            rm_alone.rankings(pairs, model.config.vocab_size, 4),
            section,
            output_dir=out,
            seed=0,
            metrics=metrics,
            on_log=steps,
            engine=read_engine(RuntimeSection(deepspeed=case.engine)),
        )
    return steps.result(case, pairs.responses, "responses/s", work_of_step)


def weights_dir(case: Case, work: Path) -> Path:
    return work / f"weights-{case.model}-{case.layers}"


def write_weights(case: Case, work: Path, tiny: bool) -> None:
    """What PPO loads, once a host: the last model's make room for it."""
    path = weights_dir(case, work)
    if not path.is_dir():
        for old in work.glob("weights-*"):
            shutil.rmtree(old)
        ppo_alone.write_models(path, case.model, tiny, case.layers)


def measure_ppo(
    case: Case, work: Path, out: Path, metrics: MetricsLog, peaks: Peaks, tiny: bool
) -> dict[str, Any]:
    size, path = 16 if tiny else TOKENS, weights_dir(case, work)
    alone = ppo_alone.Case(PROMPTS, case.model, case.method)
    section = ppo_alone.ppo_section(alone, size, {"microbatch": 4 if case.method == "lora" else 2})
    few = {"rollout_microbatch": AT_ONCE, "iterations": 3, "checkpoint_every": 1000}
    section = section.model_copy(update=few)
    began = time.perf_counter()
    roles = build_roles(
        "separate" if case.method == "full" else "shared",
        path / "base",
        path / "reward",
        tuning=section.tuning,
        dtype=ppo_alone.DTYPE,
        device="cuda" if CUDA else "cpu",
        zero=3 if case.engine == "zero3" else None,
    )
    loaded = time.perf_counter() - began
    roles.frozen_fingerprint = lambda: "not taken here"  # type: ignore[method-assign]
    loop.TrainingState.save = lambda *_: None  # type: ignore[method-assign]
    vocabulary = roles.tokenizer.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(200, vocabulary, (4 * PROMPTS, size), generator=generator).tolist()
    clock = ppo_alone.Clock()
    for name in ("sample", "make_experience", "update"):
        setattr(loop, name, clock.timed(name, getattr(loop, name)))
    loop.train(
        roles,
        ids,
        section,
        score_statistics=(0.0, 1.0),
        output_dir=out,
        seed=0,
        metrics=metrics,
        on_iteration=lambda done, of, shown: clock.iteration(),
    )
    peaks.read()
    seconds = statistics.median(clock.iterations)
    found = {"rate": round(PROMPTS / seconds, 3), "unit": "episodes/s", "phases": clock.phases()}
    found |= {"iterations": [round(each, 3) for each in clock.iterations]}
    found |= {"seconds_to_load": round(loaded, 1)}
    if is_main_process():
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found["losses"] = [rows[0][name] for name in ("value_loss", "entropy", "score")]
        found["metrics"] = rows[0]
    return found


def measure_killed(name: str, work: Path, tiny: bool) -> None:
    """`rlhf run --nproc N`, of which process 1 is killed, and then the same on half as many."""
    gpus, folder = CASES[name].gpus, work / "killed"
    few = ["max_steps=10", "checkpoint_every=2", "eval_every=100"]
    more = ["--only", "sft", *(f"--set=sft.{each}" for each in few)]
    command = [*rlhf_run(folder, work, CASES[name], tiny), *more]
    directory = folder / "runs/true-size/sft/main"
    first = subprocess.Popen([*command, "--nproc", str(gpus)], stderr=subprocess.PIPE, text=True)
    while not (directory / "checkpoints/checkpoint-4/complete.json").is_file():
        assert first.poll() is None, first.communicate()[1][-2000:]
        time.sleep(0.05)
    kill_rank_1(first.pid)
    died = time.monotonic()
    said = (first.communicate()[1] or "").strip().splitlines()[-1:]
    ended = round(time.monotonic() - died, 2)
    before = steps_logged(directory)
    half = [*command, "--nproc", str(gpus // 2)]
    again = subprocess.run(half, stderr=subprocess.PIPE, text=True)
    found = {
        "seconds_until_all_ended": ended,
        "exit_code": first.returncode,
        "said": said,
        "steps_before": before,
        "resumed_on_half": "ended" if again.returncode == 0 else again.stderr[-2000:],
        "steps_after": steps_logged(directory),
    }
    (work / f"{name}.json").write_text(json.dumps(found))
    shutil.rmtree(folder)


def measure_pipeline(name: str, work: Path, tiny: bool) -> None:
    """Every stage by `rlhf run --nproc N`, a few steps; separate roles where all weights learn."""
    case, folder = CASES[name], work / "pipeline"
    command = [*rlhf_run(folder, work, case, tiny), "--nproc", str(case.gpus)]
    if case.method == "full":
        command += [f"--set={stage}.tuning.method=full" for stage in ("sft", "rm", "ppo")]
        command += ["--set=ppo.roles=separate", "--set=sft.loss_chunk=null", "--set=dpo=null"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    stages = RunDir(folder / "runs/true-size").manifests()
    found = {
        "exit_code": done.returncode,
        "said": done.stderr.strip().splitlines()[-3:] if done.returncode else [],
        "stages": {
            key: {
                "status": stage.status,
                "seconds": round(stage.seconds, 1),
                "peak_gib": round(stage.peak_memory_gib, 2),
                "summary": stage.summary,
            }
            for key, stage in stages.items()
        },
    }
    (work / f"{name}.json").write_text(json.dumps(found))
    shutil.rmtree(folder)


def rlhf_run(folder: Path, work: Path, case: Case, tiny: bool) -> list[str]:
    """The command on a random checkpoint and the demo's data, which it writes into `folder`."""
    for old in (folder, *work.glob("weights-*")):
        shutil.rmtree(old, ignore_errors=True)
    true_size.write_inputs(folder, tiny=tiny)
    config = true_size.write_config(folder)
    engine = f"--set=runtime.deepspeed={case.engine}"
    return [sys.executable, "-m", "rlhf", "run", str(config), engine]


def kill_rank_1(launcher: int) -> None:
    for process in psutil.Process(launcher).children(recursive=True):
        if process.environ().get("RANK") == "1":
            os.kill(process.pid, signal.SIGKILL)
            return
    raise RuntimeError("no process of rank 1 is there")


def steps_logged(directory: Path) -> list[tuple[int, float]]:
    """Each step in metrics.jsonl that has a loss."""
    path = directory / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]
