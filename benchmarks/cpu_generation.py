"""Tokens a second of both generation engines on the demo's RoPE model, at batch 64 and 128.

python benchmarks/cpu_generation.py [RESULT.json]
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch

from rlhf.config.schema import SamplingSection
from rlhf.demo import models
from rlhf.generation import generate
from rlhf.models.load import load_causal_lm
from rlhf.models.registry import named
from rlhf.runtime.usage import versions

PROMPT, ANSWER, REPEATS = 24, 64, 5
TEXT = ["请告诉学生怎么做番茄汤。 Please tell a student how to cook tomato soup."] * 50


def main() -> None:
    result = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/results/cpu_generation.json")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = models.train_tokenizer(TEXT, 512, dummy_prefix=False)
        models.write_checkpoint(Path(folder) / "model", named("baichuan2-7b"), tokenizer, seed=0)
        model = load_causal_lm(Path(folder) / "model", dtype=torch.float32, device="cpu")
    rates = {
        f"batch {batch}": {engine: rate(model, batch, engine) for engine in ("plain", "fast")}
        for batch in (64, 128)
    }
    content = {
        "workload": "cpu_generation",
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": versions(),
        "ours": rates["batch 128"]["fast"],
        "baseline": rates["batch 128"]["plain"],
        "unit": f"tokens/s, median of {REPEATS}, prompt {PROMPT}, {ANSWER} new tokens, no stop",
        "ratio": round(rates["batch 128"]["fast"] / rates["batch 128"]["plain"], 2),
        "rates": rates,
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rates, indent=2))


def rate(model: torch.nn.Module, batch: int, engine: Literal["plain", "fast"]) -> float:
    """Median tokens a second; the first call warms up and is left out."""
    prompts = torch.randint(200, 500, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    seconds = []
    for seed in range(REPEATS + 1):
        start = time.perf_counter()
        generate(
            model,
            prompts.tolist(),
            SamplingSection(max_new_tokens=ANSWER),
            pad_id=0,
            eos_id=512,  # outside the vocabulary: no answer ends early
            generator=torch.Generator().manual_seed(seed),
            batch_size=batch,
            engine=engine,
        )
        seconds.append(time.perf_counter() - start)
    return round(batch * ANSWER / statistics.median(seconds[1:]), 1)


if __name__ == "__main__":
    main()
