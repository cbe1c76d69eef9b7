"""On a GPU: does the slot engine, captured and compiled, give the tokens that it should?

    python benchmarks/gpu_tokens.py RESULT.json [--tiny]

Random float32 models of all four architectures, 4 layers of 1,024 with the true vocabulary, with
and without LoRA; 16 prompts of 3 to 59 tokens, 48 new ones. `greedy`, also with a repetition
penalty: answers that are those of transformers' `generate`. `sampled`, also with top_p: those that
are the same in batches of 16 and of 5. `nucleus`: draws by the compiled sampler from float32 logits
that are those of the plain one on a CPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from rlhf.config.schema import SamplingSection
from rlhf.generation import generate
from rlhf.generation.sampler import choose
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM
from rlhf.models.registry import named
from rlhf.runtime.usage import versions

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
MODELS = ("baichuan-7b", "baichuan-13b", "baichuan2-7b", "baichuan2-13b")
PROMPTS, NEW, DRAWS = 16, 48, 32
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy, penalised": {"temperature": 0, "repetition_penalty": 1.2},
    "sampled": {},
    "sampled, top_p": {"top_p": 0.85},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script itself")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    models = {name: same_answers(name, arguments.tiny) for name in MODELS}
    sizes = [500] if arguments.tiny else [named(name).vocab_size for name in MODELS[1:3]]
    content = {
        "workload": "gpu_tokens",
        "hardware": torch.cuda.get_device_name() if CUDA else "CPU",
        "versions": versions(),
        "unit": f"answers of {PROMPTS} that are the same; nucleus: draws of {DRAWS}",
        "models": models,
        "nucleus": {str(size): same_draws(size) for size in sizes},
    }
    arguments.result.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def same_answers(name: str, tiny: bool) -> dict[str, dict[str, int]]:
    """Without adapters, and with them."""
    spec = named(name)
    shape = (64, 96, 2, 4) if tiny else (1024, 2752, 4, 8)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = BaichuanConfig(
        vocab_size=500 if tiny else spec.vocab_size,
        position_embedding=spec.position,
        norm_head=spec.norm_head,
        **dict(zip(names, shape, strict=True)),
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = BaichuanForCausalLM(config).float().eval()
    lengths = torch.randint(3, 60, (PROMPTS,)).tolist()
    prompts = [torch.randint(3, config.vocab_size, (length,)).tolist() for length in lengths]
    found = {"plain": {way: compared(model, prompts, way) for way in WAYS}}
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules=list(spec.lora_targets)))
    for part, weight in adapted.eval().named_parameters():
        if "lora_" in part:
            torch.nn.init.normal_(weight, 0, 0.02)
    return found | {"lora": {way: compared(model, prompts, way) for way in WAYS}}


def compared(model: Any, prompts: list[list[int]], way: str) -> int:
    greedy = way.startswith("greedy")
    other = answers(model, prompts, way, "plain", 16) if greedy else None
    other = other or answers(model, prompts, way, "slots", 5)
    mine = answers(model, prompts, way, "slots", 16)
    return sum(one == another for one, another in zip(mine, other, strict=True))


def answers(
    model: Any, prompts: list[list[int]], way: str, engine: Any, batch: int
) -> list[tuple[int, ...]]:
    completions = generate(
        model,
        prompts,
        SamplingSection(max_new_tokens=NEW, **WAYS[way]),
        pad_id=0,
        eos_id=2,
        generator=torch.Generator().manual_seed(1),
        batch_size=batch,
        engine=engine,
    )
    return [each.token_ids for each in completions]


def same_draws(vocabulary: int) -> int:
    sampling = SamplingSection(max_new_tokens=NEW, top_p=0.85)
    given = (
        torch.randn(DRAWS, vocabulary).mul(3),
        torch.rand(DRAWS, dtype=torch.float64),
        torch.randint(0, vocabulary, (DRAWS, 16)),
    )
    drawn = torch.compile(choose, dynamic=False) if CUDA else choose
    logits, uniforms, history = (each.to(DEVICE) for each in given)
    found = drawn(logits, sampling, uniforms, history).cpu()
    return int((found == choose(given[0], sampling, *given[1:])).sum())


if __name__ == "__main__":
    main()
