"""Responses a second of the reward model's training at 7B, random weights and LoRA; TRL beside it.

    python benchmarks/rm.py [RESULT.json] [--tiny] [--groups GROUP ...]

All that is ours goes through rlhf.training.reward.train_reward_model:

- shared, separate: K = 8 responses of 256 tokens to prompts of 256 tokens, with the prompt encoded
  once, for 1, 2 or 4 prompts at once, and with a copy of it in each response, for 1 or 2, which
  needs as much memory as sharing does for almost twice as many;
- pairs: 8 pairs a step of 512 tokens that share nothing, 4 or 8 of them at once, without gradient
  checkpointing, as configs/baichuan2_7b.yaml trains; trl: the same pairs, 8 at once, through TRL's
  RewardTrainer as it comes (with gradient checkpointing), on a Llama of the same shape;
- uneven: pairs of 128 to 512 tokens, 8 at once.

Groups, each in a process of its own: checks (scores and gradients of each way to encode prompts,
against float32), eager, trl, compiled (with rm.compile), masked (uneven as compiled does it, with
rows that are not moved to the left). Seconds are of whole
optimiser steps, the median after warming up; `peak_gib` is the allocator's peak over the training.
`ours` is the fastest of pairs; shared_over_separate is of the fastest of each, by group.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import random_models
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from rlhf.config.schema import RMSection, TuningSection
from rlhf.data.datasets import RankingDataset, RankingItem
from rlhf.data.records import PromptRecord, Provenance, RankingRecord, Response
from rlhf.models import scoring
from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from rlhf.models.baichuan.trunk import BaichuanModel
from rlhf.models.load import load_tokenizer
from rlhf.models.scoring import one_row_scores, separate_scores, shared_prompt_scores
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.quiet import quiet
from rlhf.runtime.usage import versions
from rlhf.training.reward import train_reward_model

GROUPS = ("checks", "eager", "trl", "compiled", "masked")
STEPS, WARM = 10, 3
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
"""Dense bfloat16, as the maker states."""


@dataclass(frozen=True)
class Case:
    """A training step: prompts a step and at once, with K responses each. Lengths in tokens;
    shortest: of the shortest response, where they are uneven."""

    prompts: int
    at_once: int
    k: int
    prompt: int
    response: int
    share: bool
    shortest: int | None = None

    @property
    def responses(self) -> int:
        return self.prompts * self.k

    def scaled(self, factor: int) -> Case:
        """With lengths divided by `factor`."""
        changes = {"prompt": self.prompt // factor, "response": self.response // factor}
        changes |= {"shortest": self.shortest // factor} if self.shortest else {}
        return Case(**{**vars(self), **changes})


CASES = {
    "shared": Case(prompts=4, at_once=1, k=8, prompt=256, response=256, share=True),
    "shared 2": Case(prompts=4, at_once=2, k=8, prompt=256, response=256, share=True),
    "shared 4": Case(prompts=4, at_once=4, k=8, prompt=256, response=256, share=True),
    "separate": Case(prompts=4, at_once=1, k=8, prompt=256, response=256, share=False),
    "separate 2": Case(prompts=4, at_once=2, k=8, prompt=256, response=256, share=False),
    "pairs": Case(prompts=8, at_once=4, k=2, prompt=0, response=512, share=False),
    "pairs 8": Case(prompts=8, at_once=8, k=2, prompt=0, response=512, share=False),
    "uneven": Case(prompts=8, at_once=8, k=2, prompt=0, response=512, share=False, shortest=128),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, nargs="?", default="benchmarks/results/rm.json")
    parser.add_argument("--groups", nargs="+", default=GROUPS, choices=GROUPS)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--group", help="for the script's own use: measure this one alone")
    arguments = parser.parse_args()
    if arguments.group:
        print(json.dumps(measure(arguments.group, arguments.tiny)))
        return
    start, groups = time.monotonic(), {}
    for group in arguments.groups:
        flags = ["--tiny"] if arguments.tiny else []
        command = [sys.executable, __file__, "--group", group, *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        lines = done.stdout.splitlines()
        groups[group] = json.loads(lines[-1]) if done.returncode == 0 else {"failed": lines[-5:]}
        print(group, groups[group], flush=True)
        write(arguments.result, groups, time.monotonic() - start)


def measure(group: str, tiny: bool) -> dict[str, Any]:
    """Every case of a group, by name."""
    if group == "checks":
        return exactness()
    cases = {name: case.scaled(16) if tiny else case for name, case in CASES.items()}
    if group == "masked":
        cases, BaichuanModel.aligns_rows = {"uneven": cases["uneven"]}, False
    if tiny:
        torch.compiler.set_stance("force_eager")  # a C++ compiler takes minutes
    with tempfile.TemporaryDirectory() as folder, quiet():
        # Its own weights are tiny; those that train are made on the device.
        base = Path(folder) / "base"
        random_models.describe(base, "baichuan2-7b", tiny=tiny)
        if group == "trl":
            return {"pairs": with_trl(base, Path(folder), cases["pairs"])}
        measured = {}
        for name, case in cases.items():
            out = Path(folder) / name
            out.mkdir()
            try:
                compiled = group in ("compiled", "masked")
                measured[name] = with_rlhf(base, out, case, compiled=compiled)
            except torch.OutOfMemoryError:
                measured[name] = {"failed": "out of memory"}
            print(name, measured[name], file=sys.stderr, flush=True)
            gc.collect()  # the adapted model, whose parts know each other
        return measured


def exactness() -> dict[str, Any]:
    """Scores and gradients in bfloat16, of prompts and responses of unequal lengths, against
    float32; relative errors over all of them. The longest prompt has 64 tokens, a length at which
    kernels take another way.

    A model of two layers with heads of the true size.
    """
    config = random_models.two_layers(initializer_range=0.05)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.tensor([64, 1, 40, 23, 64, 64, 10, 5])
    lengths = prompts[:, None] + torch.randint(1, 80, (8, 4), generator=generator)
    ids = torch.randint(0, 4000, (8, 4, int(lengths.max())), generator=generator)
    ids = torch.where(torch.arange(ids.shape[2]) < prompts[:, None, None], ids[:, :1], ids)
    mask = torch.arange(ids.shape[2]) < lengths[..., None]
    ids, mask, prompts = ids.to(DEVICE), mask.to(DEVICE), prompts.to(DEVICE)
    weights = torch.linspace(-1, 2, mask.shape[0] * mask.shape[1], device=DEVICE).view(8, 4)
    torch.manual_seed(0)
    model = BaichuanForSequenceClassification(config).to(DEVICE)

    def found(score: Any, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        scores = score(model, ids, mask, *given)
        (scores * weights).sum().backward()
        gradients = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
        return scores.detach().float(), torch.cat(gradients)

    exact = found(separate_scores)
    model.bfloat16()
    ways = {"separate": (separate_scores,), "one row": (one_row_scores, prompts)}
    with unittest.mock.patch.object(scoring, "reads_end_to_end", lambda *given: False):
        ways_found = {"cached": found(shared_prompt_scores, prompts)}
    ways_found |= {name: found(*way) for name, way in ways.items()}
    return {
        name: {
            f"{what}_error": round(float((is_ - of).norm() / of.norm()), 5)
            for what, is_, of in zip(("score", "gradient"), pair, exact, strict=True)
        }
        for name, pair in ways_found.items()
    }


def random_model(base: Path, *, llama: bool) -> Any:
    """A reward model of random weights; as a Llama it has the same matrices, unfused."""
    config = random_models.config_of(base, llama=llama)
    config.num_labels = 1
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
    model.name_or_path = str(base)
    return model


def sequences(case: Case, vocabulary: int, count: int) -> list[list[list[int]]]:
    """count prompts with k sequences each, which have the prompt in common and nothing after it."""
    generator = torch.Generator().manual_seed(0)

    def draw(first: int, length: int) -> list[int]:
        ids = torch.randint(200, vocabulary, (length,), generator=generator).tolist()
        return [200 + first, *ids[1:]]

    def length() -> int:
        shortest = case.shortest or case.response
        return int(torch.randint(shortest, case.response + 1, (), generator=generator))

    prompts = [draw(0, case.prompt) if case.prompt else [] for _ in range(count)]
    return [[prompt + draw(i, length()) for i in range(case.k)] for prompt in prompts]


def rankings(case: Case, vocabulary: int, count: int) -> RankingDataset:
    origin = Provenance(family="baichuan", model="random", size="7b", stage="sft")
    responses = tuple(Response(id=f"{i}", text=f"{i}", provenance=origin) for i in range(case.k))
    ranks = tuple(range(1, case.k + 1))
    message = {"role": "user", "content": "ids, not text"}
    prompt = PromptRecord.model_validate({"id": "p", "messages": [message]})
    record = RankingRecord(id="r", prompt=prompt, responses=responses, ranks=ranks)
    items = tuple(
        RankingItem(record, tuple(range(case.k)), tuple(map(tuple, rows)), ranks)
        for rows in sequences(case, vocabulary, count)
    )
    return RankingDataset(items, 0, 0, 0)


def with_rlhf(base: Path, out: Path, case: Case, *, compiled: bool) -> dict[str, Any]:
    clock, model = Clock(case), random_model(base, llama=False)
    section = RMSection(
        max_steps=STEPS,
        batch_size=case.prompts,
        microbatch_size=case.at_once,
        eval_every=STEPS,
        share_prompt=case.share,
        compile=compiled,
        tuning=TuningSection(method="lora", r=16, alpha=32),
    )

    def on_log(step: int, total: int, fields: dict[str, float]) -> None:
        if "loss" in fields:
            clock.step()

    with MetricsLog(out, ()) as metrics:
        train_reward_model(
            model,
            load_tokenizer(base),
            rankings(case, model.config.vocab_size, 2 * case.prompts),
            rankings(case, model.config.vocab_size, 1),
            section,
            output_dir=out,
            seed=0,
            metrics=metrics,
            on_log=on_log,
        )
    return clock.result(model)


def with_trl(base: Path, out: Path, case: Case) -> dict[str, Any]:
    """What a user of TRL would write, with its own defaults for what is not ours to say."""
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import RewardConfig, RewardTrainer

    clock, model = Clock(case), random_model(base, llama=True)

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step()

    rows = sequences(case, model.config.vocab_size, 2 * case.prompts)
    pairs = {"chosen_ids": [row[0] for row in rows], "rejected_ids": [row[1] for row in rows]}
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(out),
            max_steps=STEPS,
            per_device_train_batch_size=case.prompts,
            use_cpu=not CUDA,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
        ),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=load_tokenizer(base),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS"
        ),
        callbacks=[Steps()],
    )
    trainer.train()
    return clock.result(model)


class Clock:
    """When optimiser steps ended, and the allocator's peak until the last of them."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.times: list[float] = []
        self.peak = 0.0
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def step(self) -> None:
        if CUDA:
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated() / 2**30
        self.times.append(time.perf_counter())

    def result(self, model: Any) -> dict[str, Any]:
        """model: with adapters in it; the trunk's frozen matrices do the work that mfu counts."""
        gaps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)][WARM - 1 : -1]
        rate = self.case.responses / statistics.median(gaps)
        result = {"responses_per_second": round(rate, 2), "peak_gib": round(self.peak, 2)}
        peak = PEAK_FLOPS.get(torch.cuda.get_device_name()) if CUDA else None
        if peak and not self.case.share and not self.case.shortest:
            frozen = [p for n, p in model.named_parameters() if not p.requires_grad]
            weights = sum(p.numel() for p in frozen) - model.get_input_embeddings().weight.numel()
            # Forward and the gradient of the activations: frozen weights have none of their own.
            tokens = rate * (self.case.prompt + self.case.response)
            result["mfu"] = round(4 * weights * tokens / peak, 3)
        return result


def write(path: Path, groups: dict[str, Any], seconds: float) -> None:
    pairs = {
        (group, name): case
        for group in ("eager", "compiled")
        for name, case in groups.get(group, {}).items()
        if name.startswith("pairs") and "peak_gib" in case
    }
    trl = groups.get("trl", {}).get("pairs", {})
    content: dict[str, Any] = {
        "workload": "rm",
        "hardware": torch.cuda.get_device_name() if CUDA else "cpu",
        "versions": versions(),
        "unit": "responses/s of training: 8 pairs of 512 tokens a step, LoRA r 16 on all linear",
        "seconds": round(seconds, 1),
        "groups": groups,
    }
    if pairs:
        group, name = max(pairs, key=lambda place: pairs[place]["responses_per_second"])
        best, rate = pairs[group, name], pairs[group, name]["responses_per_second"]
        content |= {
            "ours": rate,
            "ours_is": f"group {group}, case {name}",
            "peak_gib": best["peak_gib"],
            "shared_over_separate": {
                name: round(fastest(cases, "shared") / fastest(cases, "separate"), 2)
                for name, cases in groups.items()
                if "separate" in cases and name in ("eager", "compiled")
            },
        }
        content |= {"mfu": best["mfu"]} if "mfu" in best else {}
        if trl:
            baseline = trl["responses_per_second"]
            content |= {
                "baseline": baseline,
                "baseline_is": "TRL's RewardTrainer",
                "ratio": round(rate / baseline, 2),
            }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def fastest(cases: dict[str, dict[str, Any]], kind: str) -> float:
    """Responses a second of the fastest case whose name begins so."""
    rates = (
        case.get("responses_per_second", 0.0) for n, case in cases.items() if kind == n.split()[0]
    )
    return max(rates)


if __name__ == "__main__":
    main()
