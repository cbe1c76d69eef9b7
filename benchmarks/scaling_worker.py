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
import traceback
from collections.abc import Iterable, Iterator
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
from filelock import FileLock
from scaling_cases import CASES, Case
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import RuntimeSection
from rlhf.models.load import load_tokenizer
from rlhf.models.roles import build_roles
from rlhf.ppo import loop
from rlhf.runtime.devices import choose_device
from rlhf.runtime.distributed import connect, disconnect, gather, is_main_process
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.run_dir import RunDir
from rlhf.training import reward, sft
from rlhf.training.engine import read_engine

CUDA = torch.cuda.is_available()
PEAK_FLOPS = 989e12
"""Of an H100 in bfloat16, dense, as the maker states."""
STEPS, WARM = 8, 3
"""The last step but one is profiled, the last followed by an evaluation before it is logged."""
ROWS, LENGTH = {"lora": 16, "full": 32}, 2048
PAIRS = rm_alone.Case(prompts=16, at_once=2, k=2, prompt=0, response=512, share=False)
PROMPTS, TOKENS = 64, 256


def measure(name: str, work: Path, tiny: bool) -> None:
    """Trains for a few steps; the main process leaves what was found in `work`/NAME.json, and one
    that fails its traceback in `work`/NAME.RANK.failed."""
    try:
        trained(name, work, tiny)
    except Exception:
        said = work / f"{name}.{os.environ.get('RANK', '0')}.failed"
        said.write_text(traceback.format_exc())
        raise


def trained(name: str, work: Path, tiny: bool) -> None:
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
    """Seconds and losses of optimiser steps, as the main process logs them, and where a
    step's time goes."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []
        self._profiler: Any = None
        self._profile: dict[str, float] = {}

    def __call__(self, step: int, total: int, fields: dict[str, float]) -> None:
        if "loss" not in fields:
            return
        if CUDA:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.losses.append(fields["loss"])
        if CUDA and step == STEPS - 2:
            activities = [torch.profiler.ProfilerActivity.CUDA]
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        elif CUDA and step == STEPS - 1:
            self._profiler.stop()
            self._profile = where(self._profiler.events(), self.times[-1] - self.times[-2])

    def result(self, case: Case, items: int, unit: str, flops: float) -> dict[str, Any]:
        """items, flops: of a step, of all processes together."""
        if not self.times:
            return {}
        gaps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)][WARM - 1 : -2]
        seconds = statistics.median(gaps)
        found = {"rate": round(items / seconds, 3), "unit": unit, "losses": self.losses}
        found |= {"seconds_a_step": round(seconds, 4), "steps": [round(gap, 4) for gap in gaps]}
        if CUDA:
            found["mfu"] = round(flops / seconds / PEAK_FLOPS / case.gpus, 3)
            found["where"] = self._profile
        return found


def where(events: Iterable[Any], step: float) -> dict[str, float]:
    """Seconds of a step in which this GPU computes, in which it does nothing but send and receive,
    and in which it waits for the host; step: all of them."""
    kernels = [event for event in events if "CUDA" in str(event.device_type)]
    spans = [(e.time_range.start, e.time_range.end, "nccl" in e.name.lower()) for e in kernels]
    busy = covered((start, end) for start, end, _ in spans)
    computing = covered((start, end) for start, end, sends in spans if not sends)
    parts = {"step": step, "computing": computing, "communicating alone": busy - computing}
    return {name: round(each, 4) for name, each in {**parts, "waiting": step - busy}.items()}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in any of the spans of microseconds."""
    total = last = 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total / 1e6


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
    count = ROWS[case.method] * (case.gpus if case.each else 1)
    model, tokenizer = model_of(case, work, tiny, AutoModelForCausalLM)
    generator = torch.Generator().manual_seed(0)
    # Few kinds of tokens, so that there is something to learn in a few steps.
    ids = torch.randint(200, 450 if tiny else 4000, (2 * count, length), generator=generator)
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})
    section = section_of(
        case,
        "sft",
        batch_size=count,
        microbatch_size=2 if case.method == "lora" and not case.compiled else 4,
        packing=False,
        compile=case.compiled,
        gradient_checkpointing=not case.compiled,
        loss_chunk=None if (case.engine or "").startswith("zero3") else 1024,
    )
    steps, work_of_step = Steps(), flops(model, case, count * length, length)
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
    return steps.result(case, count * length, "tokens/s", work_of_step)


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
    """What PPO loads, once a host, by whoever comes first."""
    path = weights_dir(case, work)
    with FileLock(f"{path}.lock"):
        if not path.is_dir():
            half = path.with_name(f"{path.name}.part")
            ppo_alone.write_models(half, case.model, tiny, case.layers)
            half.rename(path)


def written_apart(case: Case, work: Path, tiny: bool) -> None:
    """`write_weights` in a process of its own, whose memory does not count here, and which is none
    of the launcher's."""
    script = Path(__file__).with_name("scaling.py")
    command = [
        sys.executable,
        str(script),
        str(work),
        "-",
        "--write",
        next(name for name in CASES if CASES[name] is case),
    ]
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    alone = {key: value for key, value in os.environ.items() if key not in launched}
    more = ["--tiny"] if tiny else []
    subprocess.run([*command, *more], check=True, stdout=sys.stderr, env=alone)


def ppo_options(case: Case) -> dict[str, Any]:
    """Of the config's `ppo`; 32 episodes of every GPU a step of the optimiser where each has its
    own."""
    options: dict[str, Any] = {"iterations": 3, "rollout_microbatch": 32}
    if case.compiled:
        options = {**ppo_alone.OPTIONS["compiled"], "iterations": 4}
    elif case.method == "lora":
        options["microbatch"] = 4
    else:
        options |= {"microbatch": 4, "scoring_microbatch": 8}  # as configs/presets/full.yaml
    return options | ({"minibatch": 32 * case.gpus} if case.each else {})


def measure_ppo(
    case: Case, work: Path, out: Path, metrics: MetricsLog, peaks: Peaks, tiny: bool
) -> dict[str, Any]:
    size, path = 16 if tiny else TOKENS, weights_dir(case, work)
    prompts = PROMPTS * (case.gpus if case.each else 1)
    if is_main_process():
        written_apart(case, work, tiny)
    gather(None)
    alone = ppo_alone.Case(prompts, case.model, case.method)
    section = ppo_alone.ppo_section(alone, size, ppo_options(case))
    began = time.perf_counter()
    roles = build_roles(
        "separate" if case.engine == "zero3" or case.method == "full" else "shared",
        path / "base",
        path / "reward",
        tuning=section.tuning,
        dtype=ppo_alone.DTYPE,
        device=choose_device(RuntimeSection()),
        zero=3 if case.engine == "zero3" else None,
    )
    loaded = time.perf_counter() - began
    roles.frozen_fingerprint = lambda: "not taken here"  # type: ignore[method-assign]
    loop.TrainingState.save = lambda *_: None  # type: ignore[method-assign]
    vocabulary = roles.tokenizer.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(200, vocabulary, (5 * prompts, size), generator=generator).tolist()
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
    seconds = statistics.median(clock.iterations)  # the first of all, which compiles, is not there
    found = {"rate": round(prompts / seconds, 3), "unit": "episodes/s", "phases": clock.phases()}
    found |= {"iterations": [round(each, 3) for each in clock.iterations]}
    found |= {"seconds_to_load": round(loaded, 1)}
    named = ("microbatch", "scoring_microbatch", "minibatch", "compile")
    found["settings"] = {name: getattr(section, name) for name in named}
    if is_main_process():
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found["losses"] = [rows[0][name] for name in ("value_loss", "entropy")]
        found["metrics"] = rows[0]
    return found


def measure_killed(name: str, work: Path, tiny: bool) -> None:
    """`rlhf run --nproc N`, of which process 1 is killed, and then the same on half as many."""
    gpus, folder = CASES[name].gpus, work / name
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
    """Every stage by `rlhf run --nproc N`, a few steps. Where SFT tunes every weight, PPO has four
    models of their own, and reward model and PPO learn through adapters: a checkpoint of two whole
    models with their optimisers is 210 GB, nearly all of the disk."""
    case, folder = CASES[name], work / name
    command = [*rlhf_run(folder, work, case, tiny), "--nproc", str(case.gpus)]
    if case.method == "full":
        command += ["--set=sft.tuning.method=full", "--set=ppo.roles=separate"]
        command += ["--set=sft.loss_chunk=null", "--set=dpo=null"]
    with (work / f"{name}.said").open("w+") as said:
        running = subprocess.Popen(command, stderr=said)
        while running.poll() is None:  # what there is so far, for when its time is up
            time.sleep(2)
            leave(work / f"{name}.json", {"stages": stages_of(folder)})
        said.seek(0)
        last = said.read().strip().splitlines()[-3:]
    found = {"exit_code": running.returncode, "said": last if running.returncode else []}
    leave(work / f"{name}.json", {**found, "stages": stages_of(folder)})
    shutil.rmtree(folder)


def leave(path: Path, found: dict[str, Any]) -> None:
    """Writes the case's result, whole at any moment."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(found))
    draft.replace(path)


def stages_of(folder: Path) -> dict[str, Any]:
    """What the run's manifest says of each stage."""
    return {
        key: {
            "status": stage.status,
            "seconds": round(stage.seconds, 1),
            "peak_gib": round(stage.peak_memory_gib, 2),
            "summary": stage.summary,
        }
        for key, stage in RunDir(folder / "runs/true-size").manifests().items()
    }


def rlhf_run(folder: Path, work: Path, case: Case, tiny: bool) -> list[str]:
    """The command on a random checkpoint and the demo's data, which it writes into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    true_size.write_inputs(folder, tiny=tiny)
    config = true_size.write_config(folder)
    # Batches that divide by 8 processes.
    divides = ("sft.microbatch_size=1", "rm.batch_size=8", "rm.microbatch_size=1")
    sets = (f"runtime.deepspeed={case.engine}", *divides, "ppo.microbatch=2")
    return [sys.executable, "-m", "rlhf", "run", str(config), *(f"--set={each}" for each in sets)]


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
