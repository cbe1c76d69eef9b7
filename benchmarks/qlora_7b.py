"""Memory and speed of QLoRA at true size, random weights, batch 1 x 1,024 tokens; TRL beside it.

    python benchmarks/qlora_7b.py WORK_DIR RESULT_DIR [--tiny] [--cases CASE ...]

Cases: baichuan-7b, baichuan2-7b and baichuan-13b through this project's SFT with the settings of
configs/baichuan_7b_qlora.yaml, and trl: TRL's own SFTTrainer with the same settings on a Llama of
the shape of Baichuan2-7B. Each runs in a process of its own; qlora_7b.json gathers them.

Peaks are those of PyTorch's allocator: `peak_gib` over the training steps, evaluation included,
`load_peak_gib` and `save_peak_gib` before and after.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import random_models
import torch
from datasets import Dataset

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import SFTSection
from rlhf.runtime.usage import versions

CASES = ("baichuan-7b", "baichuan2-7b", "trl", "baichuan-13b")
STEPS, ROWS, LENGTH = 6, 8, 1024
CUDA = torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("result_dir", type=Path)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--case", help="for the script's own use: measure this one alone")
    arguments = parser.parse_args()
    if arguments.case:
        measured = measure(arguments.case, arguments.work_dir, arguments.tiny)
        print(json.dumps(measured))
        return
    cases: dict[str, Any] = {}
    for case in arguments.cases:
        flags = ["--tiny"] if arguments.tiny else []
        command = [sys.executable, __file__, str(arguments.work_dir), "-", "--case", case, *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        lines = done.stdout.splitlines()
        cases[case] = json.loads(lines[-1]) if done.returncode == 0 else {"failed": lines[-5:]}
        print(case, cases[case], flush=True)
        write(arguments.result_dir / "qlora_7b.json", cases)


def measure(case: str, work: Path, tiny: bool) -> dict[str, Any]:
    """One case from random weights to the saved model: seconds a step, tokens/s, memory."""
    shutil.rmtree(work, ignore_errors=True)
    name = "baichuan2-7b" if case == "trl" else case
    base = work / "base"
    random_models.write_base(base, name, llama=case == "trl", tiny=tiny)
    train_case = train_with_trl if case == "trl" else train_with_rlhf
    result = train_case(base, work / "out")
    shutil.rmtree(work)
    return result


def settings() -> SFTSection:
    """The published config, for a few steps without accumulation."""
    section = load_config(resource("configs/baichuan_7b_qlora.yaml"), []).sft
    few = {"batch_size": 1, "max_steps": STEPS, "eval_every": STEPS, "packing": False}
    return section.model_copy(update=few)


def rows(vocabulary: int) -> Dataset:
    ids = torch.randint(200, vocabulary, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})


def train_with_rlhf(base: Path, out: Path) -> dict[str, Any]:
    from rlhf.models.load import load_causal_lm, load_tokenizer
    from rlhf.runtime.metrics import MetricsLog
    from rlhf.training.sft import train_sft

    clock = Clock()
    device = "cuda" if CUDA else "cpu"
    model = load_causal_lm(base, dtype=torch.bfloat16, device=device, quantization="nf4")
    clock.loaded()
    data = rows(model.config.vocab_size)
    out.mkdir()
    with MetricsLog(out, ()) as metrics:
        train_sft(
            model,
            load_tokenizer(base),
            data,
            data.select(range(2)),
            settings(),
            output_dir=out,
            seed=0,
            metrics=metrics,
            on_log=lambda step, total, fields: clock.step(),
        )
    return clock.result()


def train_with_trl(base: Path, out: Path) -> dict[str, Any]:
    """What a user of TRL would write, with its own defaults for what is not in the settings."""
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, TrainerCallback
    from transformers import LlamaForCausalLM as Llama
    from trl import SFTConfig, SFTTrainer

    from rlhf.models.baichuan.tokenization import BaichuanTokenizer

    section, clock = settings(), Clock()
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = Llama.from_pretrained(base, dtype=torch.bfloat16, quantization_config=quantised)
    clock.loaded()

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step()

    optimiser, tuning = section.optimiser, section.tuning
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(out),
            max_steps=STEPS,
            per_device_train_batch_size=1,
            gradient_checkpointing=True,
            learning_rate=optimiser.learning_rate,
            optim="adamw_8bit",
            bf16=True,
            use_cpu=not CUDA,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=rows(model.config.vocab_size),
        processing_class=BaichuanTokenizer.from_pretrained(base),
        peft_config=LoraConfig(
            r=tuning.r,
            lora_alpha=tuning.alpha,
            lora_dropout=tuning.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[Steps()],
    )
    trainer.train()
    return clock.result()


class Clock:
    """When steps ended, and the allocator's peak in each of the three phases."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.load_peak = self.train_peak = 0.0
        _peak_gib()  # forgets that the random checkpoint was made on this device

    def loaded(self) -> None:
        self.load_peak = _peak_gib()

    def step(self) -> None:
        if CUDA:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.train_peak = max(self.train_peak, _peak_gib())

    def result(self) -> dict[str, Any]:
        # The first steps warm up, and an evaluation may come before the first and after the last.
        gaps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)][1 : STEPS - 1]
        seconds = statistics.median(gaps)
        return {
            "load_peak_gib": round(self.load_peak, 2),
            "peak_gib": round(self.train_peak, 2),
            "save_peak_gib": round(_peak_gib(), 2),
            "seconds_a_step": round(seconds, 3),
            "tokens_per_second": round(LENGTH / seconds, 1),
        }


def _peak_gib() -> float:
    """Since the last call."""
    if not CUDA:
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


def write(path: Path, cases: dict[str, Any]) -> None:
    first = cases.get("baichuan-7b", {})
    content = {
        "workload": "qlora_7b",
        "hardware": torch.cuda.get_device_name() if CUDA else "cpu",
        "versions": versions(),
        "unit": "GiB at batch 1 x 1,024 tokens, NF4 with double quantisation, r 8 on all linear",
        "ours": first.get("peak_gib"),
        "peak_gib": first.get("peak_gib"),
        "cases": cases,
    }
    ours, trl = cases.get("baichuan2-7b", {}), cases.get("trl", {})
    if "peak_gib" in ours and trl.get("peak_gib"):
        content |= {
            "baseline": trl["peak_gib"],
            "baseline_is": "TRL's SFTTrainer, a Llama of Baichuan2-7B's shape (case trl)",
            "ratio": round(ours["peak_gib"] / trl["peak_gib"], 3),
            "ratio_is": "ours with the same vocabulary (case baichuan2-7b) / baseline",
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
