"""Responses a second of a reward model's training step, with each prompt encoded once for its K
responses and with a copy of it in every one.

Seconds are the CPU's, of one thread: wall time would measure what else the machine does.

python benchmarks/cpu_rm.py [RESULT.json]
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from rlhf.models.scoring import separate_scores, shared_prompt_scores
from rlhf.ops.losses import ranking_loss
from rlhf.runtime.usage import versions

PROMPTS, K, PROMPT, RESPONSE, REPEATS = 1, 8, 256, 256, 9
# Tokens encoded with a copy of the prompt in every response, over those with one prompt. Attention
# may save more: it is dense under ALiBi's bias, and a response then has half of the queries.
IDEAL = K * (PROMPT + RESPONSE) / (PROMPT + K * RESPONSE)
SIZES = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3}


def main() -> None:
    torch.set_num_threads(1)
    result = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/results/cpu_rm.json")
    start = time.perf_counter()
    rates = {position: measure(position) for position in ("rope", "alibi")}
    ratios = {name: rate["shared"] / rate["separate"] for name, rate in rates.items()}
    content = {
        "workload": "cpu_rm",
        "hardware": f"{platform.machine()}, 1 thread",
        "versions": versions(),
        "ours": rates["rope"]["shared"],
        "baseline": rates["rope"]["separate"],
        "unit": f"responses/CPU-s of forward and backward, median of {REPEATS} in turn, K = {K}, "
        f"prompt {PROMPT}, response {RESPONSE}, float32, 3 layers of width 128",
        "ratio": round(ratios["rope"], 2),
        "floor_fraction": round(ratios["rope"] / IDEAL, 3),
        "seconds": round(time.perf_counter() - start, 1),
        "rates": rates,
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "ideal_ratio": round(IDEAL, 2),
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=2))


def measure(position: str) -> dict[str, float]:
    """Median responses a CPU second of both ways, which take turns; the first turn warms up."""
    torch.manual_seed(0)
    config = BaichuanConfig(
        vocab_size=512, num_attention_heads=4, position_embedding=position, **SIZES
    )
    model = BaichuanForSequenceClassification(config)
    prompts = torch.randint(3, 512, (PROMPTS, 1, PROMPT)).expand(-1, K, -1)
    ids = torch.cat([prompts, torch.randint(3, 512, (PROMPTS, K, RESPONSE))], dim=2)
    mask, lengths = torch.ones_like(ids, dtype=torch.bool), torch.full((PROMPTS,), PROMPT)
    ways: dict[str, Callable[[], Tensor]] = {
        "separate": lambda: separate_scores(model, ids, mask),
        "shared": lambda: shared_prompt_scores(model, ids, mask, lengths),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS + 1):
        for name, scores in ways.items():
            seconds[name].append(step_seconds(model, scores))
    return {
        name: round(PROMPTS * K / statistics.median(times[1:]), 2)
        for name, times in seconds.items()
    }


def step_seconds(model: torch.nn.Module, scores: Callable[[], Tensor]) -> float:
    """One forward and backward through the K-way loss."""
    model.zero_grad()
    start = time.process_time()
    ranking_loss(scores(), torch.arange(1, K + 1).expand(PROMPTS, K)).backward()
    return time.process_time() - start


if __name__ == "__main__":
    main()
