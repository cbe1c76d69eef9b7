"""Tokens a second of fine-tuning at 7B, random weights, rows of 2,048 tokens; TRL beside it.

    python benchmarks/sft.py WORK_DIR RESULT_DIR [--tiny] [--cases sft_full sft_lora] [--rows 32]

- sft_full: every weight learns, 8-bit AdamW; sft_lora: LoRA r 8 on all linear layers.
- ours goes through rlhf.training.sft.train_sft on Baichuan2-7B, Max-z included. TRL is its
  SFTTrainer with Liger on a Llama of the same shape. Both learn from the same rows: 16 a step, each
  one text of 2,048 tokens, all of it labelled. Setting `documents` has four texts of 128 to 1,024
  tokens in a row, kept apart; `plain` has none of what makes the others fast, for its losses.

Settings differ in rows at once and in what is computed again; all are in the result, the fastest is
`ours` (of those on TRL's rows) or `baseline`. Each side of a case runs in a process of its own, and
writes after every setting. Seconds are of whole optimiser steps, the median after the first.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import random_models
import torch
from datasets import Dataset
from gpu_time import gpu_time
from transformers import AutoModelForCausalLM

from rlhf.config.schema import OptimiserSection, SFTSection, TuningSection
from rlhf.runtime.quiet import quiet
from rlhf.runtime.usage import versions

CASES = ("sft_full", "sft_lora")
SIDES = ("ours", "trl")
LENGTH, STEPS = 2048, 3
ROWS = 16
"""A step, unless --rows says otherwise: results then have files of their own (sft_full_32.json)."""
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
"""Dense bfloat16, as the maker states."""
LAYERS = 32
FAST = {"compile": True, "loss_chunk": LENGTH}
OURS: dict[str, dict[str, dict[str, Any]]] = {
    "sft_full": {
        "1 row": FAST | {"microbatch_size": 1},
        "2 rows": FAST | {"microbatch_size": 2},
        "4 rows": FAST | {"microbatch_size": 4},
        "4 rows, budget 0.7": FAST | {"microbatch_size": 4, "activation_budget": 0.7},
        "4 rows, budget 0.5": FAST | {"microbatch_size": 4, "activation_budget": 0.5},
        "4 rows, all again": FAST | {"microbatch_size": 4, "gradient_checkpointing": True},
        "documents": FAST | {"microbatch_size": 1},
        "plain": {
            "microbatch_size": 1,
            "gradient_checkpointing": True,
            "packed_attention": "masked",
        },
    },
    "sft_lora": {
        "4 rows": FAST | {"microbatch_size": 4},
        "2 rows": FAST | {"microbatch_size": 2},
        "8 rows, budget 0.7": FAST | {"microbatch_size": 8, "activation_budget": 0.7},
        "8 rows, half again": FAST | {"microbatch_size": 8, "gradient_checkpointing": LAYERS // 2},
        "documents": FAST | {"microbatch_size": 4},
        "plain": {
            "microbatch_size": 2,
            "gradient_checkpointing": True,
            "packed_attention": "masked",
        },
    },
}
TRL = {"2 rows": (2, True), "4 rows": (4, True), "8 rows": (8, True)}
"""Rows at once, and whether TRL computes all blocks again, as it does by default."""
UNCHECKED = {
    "sft_full": {"1 row, none again": (1, False), "4 rows, none again": (4, False)},
    "sft_lora": {"4 rows, none again": (4, False)},
}


class Enough(Exception):
    """All is measured: a model of 15 GB needs not be saved."""


@dataclass(frozen=True)
class World:
    """What one process measures, and where."""

    case: str
    base: Path
    work: Path
    results: Path
    tiny: bool
    rows: int

    @property
    def result(self) -> Path:
        suffix = "" if self.rows == ROWS else f"_{self.rows}"
        return self.results / f"{self.case}{suffix}.json"

    @property
    def length(self) -> int:
        return LENGTH // 32 if self.tiny else LENGTH

    @property
    def full(self) -> bool:
        return self.case == "sft_full"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("result_dir", type=Path)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--rows", type=int, default=ROWS, help="of 2,048 tokens a step")
    parser.add_argument("--settings", nargs="+", help="default: all of a side")
    parser.add_argument("--side", help="for the script's own use: measure this one alone")
    arguments = parser.parse_args()
    if arguments.side:
        measure(arguments, arguments.cases[0], arguments.side)
        return
    for case in arguments.cases:
        world = world_of(arguments, case, "")
        if "ours" in arguments.sides:  # else TRL is measured again beside what is there
            world.result.unlink(missing_ok=True)
        for side in arguments.sides:
            flags = ["--cases", case, "--side", side, *(["--tiny"] if arguments.tiny else [])]
            flags += ["--settings", *arguments.settings] if arguments.settings else []
            flags += ["--rows", str(arguments.rows)]
            places = [str(arguments.work_dir), str(arguments.result_dir)]
            done = subprocess.run([sys.executable, __file__, *places, *flags])
            if done.returncode:
                add(world, side, "the process", {"failed": [f"exit status {done.returncode}"]})


def measure(arguments: Any, case: str, side: str) -> None:
    """All settings of one side of a case."""
    if arguments.tiny:
        torch.compiler.set_stance("force_eager")  # a C++ compiler takes minutes
    world = world_of(arguments, case, side)
    shutil.rmtree(world.work, ignore_errors=True)
    with quiet():
        random_models.describe(world.base, "baichuan2-7b", tiny=world.tiny)
        if side == "ours" and world.full:
            attempt(world, "checks", "attention and head", lambda: exactness(world))
        ours, trl = OURS[case], TRL | UNCHECKED[case]
        for name, setting in (ours if side == "ours" else trl).items():
            if name not in (arguments.settings or (name,)):
                continue
            if side == "ours":
                attempt(world, side, name, lambda: with_rlhf(world, name, ours[name]))  # noqa: B023
            else:
                attempt(world, side, name, lambda: with_trl(world, *setting))  # noqa: B023
    shutil.rmtree(world.work)


def world_of(arguments: Any, case: str, side: str) -> World:
    work = arguments.work_dir / f"{case}-{side}"
    return World(case, work / "base", work, arguments.result_dir, arguments.tiny, arguments.rows)


def attempt(world: World, side: str, name: str, work: Any) -> None:
    """One setting; one that fails is told and no more."""
    start = time.monotonic()
    try:
        found = work()
    except Exception as error:  # out of memory, first of all
        found = {"failed": traceback.format_exc().splitlines()[-6:] + [type(error).__name__]}
    found["seconds"] = round(time.monotonic() - start, 1)
    print(world.case, side, name, found, file=sys.stderr, flush=True)
    add(world, side, name, found)
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


def random_model(world: World, *, llama: bool) -> Any:
    """A language model of random weights; as a Llama it has the same matrices, unfused."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        config = random_models.config_of(world.base, llama=llama)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.name_or_path = str(world.base)
    return model


def texts(world: World, vocabulary: int, lengths: list[int], rows: int) -> Dataset:
    """So many rows' worth of texts, whose lengths fill a row."""
    generator = torch.Generator().manual_seed(0)
    top = min(vocabulary, 50_000)  # few enough to have learnt something after some steps
    ids = [
        torch.randint(200, top, (length,), generator=generator).tolist()
        for _ in range(rows)
        for length in lengths
    ]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def section_of(world: World, setting: dict[str, Any]) -> SFTSection:
    changes = dict(setting)
    if world.tiny and type(changes.get("gradient_checkpointing")) is int:
        changes["gradient_checkpointing"] = 1
    kind = "adamw-8bit" if world.full else "adamw"
    method = "full" if world.full else "lora"
    return SFTSection(
        max_length=world.length,
        max_steps=STEPS + 2,
        batch_size=world.rows,
        packing=True,
        max_z_weight=2e-4,
        eval_every=STEPS + 2,
        split_weights=world.full,
        tuning=TuningSection(method=method, r=8, alpha=16),
        optimiser=OptimiserSection(learning_rate=1e-5, schedule="constant", kind=kind),
        **changes,
    )


def with_rlhf(world: World, name: str, setting: dict[str, Any]) -> dict[str, Any]:
    from rlhf.models.load import load_tokenizer
    from rlhf.runtime.metrics import MetricsLog
    from rlhf.training.packing import pack
    from rlhf.training.sft import train_sft

    model = random_model(world, llama=False)
    whole = world.length
    lengths = [whole // 2, whole // 4, whole * 3 // 16, whole // 16]
    data = texts(
        world,
        model.config.vocab_size,
        lengths if name == "documents" else [whole],
        world.rows * (STEPS + 2),
    )
    rows = pack(data, whole)["input_ids"]
    clock = Clock(
        model, world, world.rows * sum(map(len, rows)) / len(rows), profiles=name != "plain"
    )
    out = world.work / name.replace(" ", "-").replace(",", "")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    def on_log(step: int, total: int, fields: dict[str, float]) -> None:
        if "loss" in fields:
            clock.step(fields["loss"])

    try:
        with MetricsLog(out, ()) as metrics:
            train_sft(
                model,
                load_tokenizer(world.base),
                data,
                data.select(range(1)),
                section_of(world, setting),
                output_dir=out,
                seed=0,
                metrics=metrics,
                on_log=on_log,
            )
    except Enough:
        pass
    return clock.result() | {"setting": setting}


def with_trl(world: World, at_once: int, again: bool) -> dict[str, Any]:
    """What a user of TRL would write, with its own defaults for what is not ours to say."""
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from rlhf.models.load import load_tokenizer

    model = random_model(world, llama=True)
    clock = Clock(model, world, world.rows * world.length, profiles=False)

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_log(self, *args: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            if "loss" in logs:
                clock.step(float(logs["loss"]))

    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(world.work / "trl"),
            max_steps=STEPS + 2,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=world.rows // at_once,
            gradient_checkpointing=again,
            learning_rate=1e-5,
            optim="adamw_8bit" if world.full else "adamw_torch_fused",
            bf16=True,
            use_cpu=not CUDA,
            use_liger_kernel=CUDA,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to="none",
            save_strategy="no",
            logging_steps=1,
        ),
        train_dataset=texts(
            world, model.config.vocab_size, [world.length], world.rows * (STEPS + 2)
        ),
        processing_class=load_tokenizer(world.base),
        peft_config=None if world.full else lora,
        callbacks=[Steps()],
    )
    try:
        trainer.train()
    except Enough:
        pass
    return clock.result() | {"liger": CUDA, "gradient_checkpointing": again}


class Clock:
    """When optimiser steps ended, the allocator's peak meanwhile, and where a further step goes."""

    def __init__(self, model: Any, world: World, tokens: float, *, profiles: bool) -> None:
        """tokens: of a step."""
        self.weights = model.num_parameters(exclude_embeddings=True)
        self.flops = 6 if world.full else 4  # frozen weights have no gradient of their own
        self.tokens, self.profiles = tokens, profiles and CUDA
        self.times, self.losses = [time.perf_counter()], list[float]()
        self.peak, self.profiler, self.kernels = 0.0, None, {}
        if CUDA:
            torch.cuda.reset_peak_memory_stats()

    def step(self, loss: float) -> None:
        if CUDA:
            torch.cuda.synchronize()
        self.losses.append(round(loss, 5))
        if len(self.losses) > STEPS:
            self.profiler.stop()
            self.kernels = gpu_time(self.profiler)
            raise Enough
        self.times.append(time.perf_counter())
        self.peak = torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0
        if len(self.losses) == STEPS:
            if not self.profiles:
                raise Enough
            activity = torch.profiler.ProfilerActivity.CUDA
            self.profiler = torch.profiler.profile(activities=[activity])
            self.profiler.start()

    def result(self) -> dict[str, Any]:
        gaps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        rate = self.tokens / statistics.median(gaps[1:])
        found = {
            "tokens_per_second": round(rate, 1),
            "peak_gib": round(self.peak, 2),
            "first_step_seconds": round(gaps[0], 1),
            "step_seconds": [round(gap, 3) for gap in gaps[1:]],
            "losses": self.losses,
        }
        peak = PEAK_FLOPS.get(torch.cuda.get_device_name()) if CUDA else None
        found |= {"mfu": round(self.flops * self.weights * rate / peak, 4)} if peak else {}
        return found | ({"profile": self.kernels} if self.kernels else {})


def exactness(world: World) -> dict[str, Any]:
    """Gradients of packed rows by the fast path and by the plain one, against float32.

    A model of two layers with heads of the true size; errors are relative, over all gradients.
    """
    from rlhf.models.baichuan.modeling import BaichuanForCausalLM
    from rlhf.training.packing import FlatRows, PackedRows

    config = random_models.two_layers(norm_head=True, z_loss_weight=2e-4)
    ids = torch.randint(0, 4000, (512,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [{"input_ids": ids, "labels": ids, "seq_lengths": [100, 256, 30, 126]}]
    torch.manual_seed(0)
    model = BaichuanForCausalLM(config).to(DEVICE)

    def gradient(layout: Any, **options: Any) -> torch.Tensor:
        model.zero_grad()
        batch = {
            name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value
            for name, value in layout(rows).items()
        }
        model(**batch, use_cache=False, **options).loss.backward()
        return torch.cat([p.grad.float().flatten() for p in model.parameters()])

    exact = gradient(PackedRows(0))
    model.bfloat16()
    plain, fast = gradient(PackedRows(0)), gradient(FlatRows(512), loss_chunk=200)
    return {
        f"{name}_error": round(float((found - exact).norm() / exact.norm()), 5)
        for name, found in (("plain", plain), ("fast", fast))
    }


def add(world: World, side: str, name: str, found: dict[str, Any]) -> None:
    """Writes the result anew, with this setting in it."""
    path, full = world.result, world.full
    content = json.loads(path.read_text()) if path.exists() else {}
    settings = content.get("settings", {})
    settings.setdefault(side, {})[name] = found
    how = "every weight, 8-bit AdamW" if full else "LoRA r 8 on all linear"
    content = {
        "workload": path.stem,
        "hardware": torch.cuda.get_device_name() if CUDA else "cpu",
        "versions": versions(),
        "unit": f"tokens/s of training: {how}; {world.rows} full rows of 2,048 tokens a step",
        "mfu_is": f"{6 if full else 4} FLOP a weight and token, no embedding table, 989 TFLOP/s",
        "seconds": round(
            sum(
                s["seconds"] for each in settings.values() for s in each.values() if "seconds" in s
            ),
            1,
        ),
    }
    best = {}
    for each in SIDES:
        done = {
            key: value
            for key, value in settings.get(each, {}).items()
            if "tokens_per_second" in value and key not in ("documents", "plain")
        }
        if done:
            top = max(done, key=lambda key: done[key]["tokens_per_second"])
            best[each] = done[top]
            word = "ours" if each == "ours" else "baseline"
            content |= {word: done[top]["tokens_per_second"], f"{word}_is": f"setting {top}"}
    if "ours" in best:
        content |= {key: best["ours"][key] for key in ("peak_gib", "mfu") if key in best["ours"]}
    if len(best) == 2:
        content["ratio"] = round(content["ours"] / content["baseline"], 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "settings": settings}, indent=2) + "\n")


if __name__ == "__main__":
    main()
