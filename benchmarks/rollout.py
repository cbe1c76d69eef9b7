"""Sampling at true size on one GPU, Baichuan2-7B with random bf16 weights, beside `generate`.

    python benchmarks/rollout.py RESULT_DIR [--tiny] [--cases CASE ...] [--profile]

Cases: rollout_b64 and rollout_b16 (prompts of 256 tokens, 256 new ones, nothing ends early) and
rollout_uneven (256 prompts of 256; lengths log-normal with mean 128 and sigma 0.8, at most 512).
A file each. The baseline is transformers' own `generate`: with its default cache for the even
cases, and in batches of 64 that wait for their longest row for the uneven one.

The floor: the prompts' FLOPs at the FLOP rate measured here, then for every step the weights, less
the embedding table, and the keys and values that are filled, at the bandwidth measured here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.schema import SamplingSection
from rlhf.generation import generate
from rlhf.generation.room import Decoder
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM
from rlhf.runtime.usage import versions

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
EOS = 2
BATCHES = {"rollout_b64": 64, "rollout_b16": 16}
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result_dir", type=Path)
    parser.add_argument("--cases", nargs="+", default=[*BATCHES, "rollout_uneven"])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--profile", action="store_true", help="where a step's time goes")
    arguments = parser.parse_args()
    size = 16 if arguments.tiny else 256
    model = random_model(arguments.tiny)
    machine = rates(arguments.tiny)
    print(machine, flush=True)
    for case in arguments.cases:
        if case == "rollout_uneven":
            result = uneven(model, machine, size)
        else:
            result = even(model, machine, size, BATCHES[case], arguments.profile)
        content = {
            "workload": case,
            "hardware": torch.cuda.get_device_name() if CUDA else "CPU",
            "versions": versions(),
            **result,
            "machine": machine,
        }
        arguments.result_dir.mkdir(parents=True, exist_ok=True)
        path = arguments.result_dir / f"{case}.json"
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(content), flush=True)


def random_model(tiny: bool) -> BaichuanForCausalLM:
    shape: dict[str, Any] = {}
    if tiny:
        shape = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 96}
        shape |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    config = BaichuanConfig(**{"vocab_size": 125_696, **shape}, norm_head=True)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16 if CUDA else torch.float32)
        model = BaichuanForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
    return model


def rates(tiny: bool) -> dict[str, float]:
    """Bytes read and written a second by a large copy, FLOPs a second of a bf16 product."""
    side = 256 if tiny else 8192
    dtype = torch.bfloat16 if CUDA else torch.float32
    source = torch.randn(side * side * 16, device=DEVICE, dtype=dtype)
    target = torch.empty_like(source)
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=dtype)
    copy = seconds(lambda: target.copy_(source), 10)
    product = seconds(lambda: a @ b, 10)
    return {"bytes_s": 2 * source.nbytes / copy, "flops_s": 2 * side**3 / product}


def seconds(work: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median of the calls after the first few."""
    taken = []
    for _ in range(repeats + warm_up):
        synchronise()
        start = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[warm_up:])


def synchronise() -> None:
    if CUDA:
        torch.cuda.synchronize()


def even(
    model: BaichuanForCausalLM, machine: dict[str, float], size: int, batch: int, profiled: bool
) -> dict[str, Any]:
    prompts = random_prompts(model, batch, size)
    tokens = batch * size
    peak_before = reset_peak()

    def sample() -> None:
        found = ours(model, prompts, SamplingSection(max_new_tokens=size))
        assert sum(map(len, found)) == tokens

    taken = seconds(sample, REPEATS)
    peak = peak_gib()
    if profiled:
        profile(sample)
    theirs(model, prompts, [4] * batch)  # warms up
    baseline = seconds(lambda: theirs(model, prompts, [size] * batch), 1, warm_up=0)
    floor = floor_seconds(model, machine, [(size, size)] * batch)
    return {
        **shared_fields(tokens, taken, baseline, floor),
        "peak_gib": peak,
        "weights_gib": peak_before,
        "batch": batch,
    }


def uneven(model: BaichuanForCausalLM, machine: dict[str, float], size: int) -> dict[str, Any]:
    requests, most = (16, 2 * size) if size < 256 else (256, 512)
    generator = torch.Generator().manual_seed(0)
    sigma = 0.8
    mean = torch.tensor(size / 2.0).log() - sigma**2 / 2
    drawn = (mean + sigma * torch.randn(requests, generator=generator)).exp()
    lengths = drawn.round().long().clamp(1, most)
    prompts = random_prompts(model, requests, size)
    sampling = SamplingSection(max_new_tokens=most)
    reset_peak()

    def sample() -> None:
        found = ours(Ending(model, lengths), prompts, sampling)
        assert list(map(len, found)) == lengths.tolist()

    taken = seconds(sample, 2)
    peak = peak_gib()
    rows = min(64, requests)
    first = lengths[:rows].tolist()
    theirs(model, prompts[:rows], [4] * rows)  # warms up
    baseline = seconds(lambda: theirs(model, prompts[:rows], first), 1, warm_up=0)
    floor = floor_seconds(model, machine, [(size, length) for length in lengths.tolist()])
    fields = shared_fields(int(lengths.sum()), taken, baseline, floor)
    fields["baseline"] = round(sum(first) / baseline, 1)
    fields["ratio"] = round(fields["ours"] / fields["baseline"], 2)
    return {**fields, "peak_gib": peak, "requests": requests, "baseline_requests": rows}


def shared_fields(tokens: int, taken: float, baseline: float, floor: float) -> dict[str, Any]:
    return {
        "ours": round(tokens / taken, 1),
        "baseline": round(tokens / baseline, 1),
        "unit": "useful tokens/s",
        "ratio": round(baseline / taken, 2),
        "floor_fraction": round(floor / taken, 3),
        "seconds": round(taken, 3),
        "floor_seconds": round(floor, 3),
    }


def floor_seconds(
    model: BaichuanForCausalLM, machine: dict[str, float], sizes: list[tuple[int, int]]
) -> float:
    """sizes: tokens of prompt and of response of every request, all decoded side by side."""
    embedding = model.get_input_embeddings().weight
    weights = sum(p.numel() for p in model.parameters()) - embedding.numel()
    flops = 2 * weights * sum(prompt for prompt, _ in sizes)
    steps = max(response for _, response in sizes)
    filled = sum(response * (prompt + response / 2) for prompt, response in sizes)
    read = steps * weights * embedding.element_size() + model.slot_bytes(1) * filled
    return flops / machine["flops_s"] + read / machine["bytes_s"]


def random_prompts(model: BaichuanForCausalLM, count: int, size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, size)
    return torch.randint(3, model.config.vocab_size, shape, generator=generator).tolist()


def ours(model: Any, prompts: list[list[int]], sampling: SamplingSection) -> list[tuple[int, ...]]:
    even = isinstance(model, BaichuanForCausalLM)
    completions = generate(
        model,
        prompts,
        sampling,
        pad_id=0,
        eos_id=model.config.vocab_size if even else EOS,  # outside the vocabulary: none ends
        generator=torch.Generator().manual_seed(0),
        batch_size=128,
        engine="slots",
    )
    return [completion.token_ids for completion in completions]


class Ending:
    """A model whose answers end where they should: EOS becomes certain there, impossible before."""

    training = False

    def __init__(self, model: BaichuanForCausalLM, lengths: Tensor) -> None:
        self.model, self.lengths = model, lengths.to(DEVICE)
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    def slot_bytes(self, capacity: int) -> int:
        return self.model.slot_bytes(capacity)

    def slot_decoder(self, count: int, capacity: int) -> Decoder:
        return EndingDecoder(self, count, capacity)


class EndingDecoder:
    def __init__(self, ending: Ending, count: int, capacity: int) -> None:
        self.slots = count
        self._decoder = ending.model.slot_decoder(count, capacity)
        self._lengths, self._next = ending.lengths, 0
        self._last = torch.zeros(count, dtype=torch.long, device=DEVICE)

    def fill(self, at: Tensor, prompts: Tensor, lengths: Tensor) -> Tensor:
        wanted = self._lengths[self._next : self._next + len(at)]
        self._next += len(at)
        self._last[at] = lengths + wanted - 1  # tokens before the last one
        return self._ended(self._decoder.fill(at, prompts, lengths), wanted == 1)

    def step(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self._ended(self._decoder.step(tokens, lengths), lengths + 1 == self._last)

    def _ended(self, logits: Tensor, last: Tensor) -> Tensor:
        logits[:, EOS] = torch.where(last, 1e4, -1e4).to(logits.dtype)
        return logits


def theirs(model: BaichuanForCausalLM, prompts: list[list[int]], lengths: list[int]) -> None:
    """transformers' generate; a row is done at its length, and the batch with its longest row."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    wanted = torch.tensor(lengths, device=DEVICE) + len(prompts[0])

    class AtLength(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
            return input_ids.shape[1] >= wanted

    decode: Any = model.generate
    decode(
        input_ids=torch.tensor(prompts, device=DEVICE),
        do_sample=True,
        top_k=0,
        max_new_tokens=max(lengths),
        eos_token_id=None,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([AtLength()]),
    )


def reset_peak() -> float:
    if not CUDA:
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    return round(torch.cuda.memory_allocated() / 2**30, 2)


def peak_gib() -> float:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if CUDA else 0.0


def profile(work: Callable[[], None]) -> None:
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
    print(profiler.key_averages().table(sort_by="cuda_time_total", row_limit=22), flush=True)


if __name__ == "__main__":
    main()
