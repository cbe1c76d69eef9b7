"""Seconds of a PPO iteration on a CPU, separate full models; beside it TRL 1.12.0, its last PPO.

    python benchmarks/cpu_ppo.py [RESULT_DIR] [--trl FOLDER] [--rounds N] [--epochs 1 4]

Writes cpu_ppo_1.json and cpu_ppo_4.json, with 1 and 4 epochs an iteration. FOLDER is what
`pip install --no-deps --target FOLDER trl==1.12.0` made; without it our own figures stand alone.
Ours and TRL's processes take turns, `--rounds` times; TRL runs with each of three microbatch sizes,
and its best counts. The first iterations of every process warm up: TRL's and the plain ones' one,
three where blocks are compiled, of which the seconds are in the result too.

Random weights, float32. An answer has 64 tokens but for the 1.6 % of ours in which the ending token
is drawn; TRL's go on after it. The floor is the arithmetic that cannot be saved (a pass of
reference and reward model, logprobs kept from sampling) at the rate of a large product.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

EPISODES, PROMPT, RESPONSE, VOCABULARY = 64, 32, 64, 4000
SHAPE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
HEADS, MEASURED = 4, 3
OURS: dict[str, dict[str, Any]] = {
    "plain": {"microbatch": 32},
    "compiled": {"microbatch": 32, "compile": True, "old_logprobs": "engine"},
}
"""Of the config's `ppo`."""
WAYS = {"ours": tuple(OURS), "trl": ("64", "32", "16")}
WARM = {"compiled": 3}
"""Iterations that do not count, one where nothing else is said."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result_dir", nargs="?", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--trl", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=(1, 4))
    parser.add_argument("--one", nargs=3, help="for the script's own use: who, epochs, how")
    arguments = parser.parse_args()
    if arguments.one:
        who, number, how = arguments.one
        print(json.dumps({"ours": ours, "trl": trls}[who](int(number), how)))
        return
    for epochs in arguments.epochs:
        content = compare(epochs, arguments.trl, arguments.rounds)
        file = arguments.result_dir / f"cpu_ppo_{epochs}.json"
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(content, indent=2), flush=True)


def compare(epochs: int, trl: Path | None, rounds: int) -> dict[str, Any]:
    start = time.perf_counter()
    taken: dict[tuple[str, str], list[float]] = {}
    warming: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for who, ways in WAYS.items():
            for how in ways:
                if who == "ours" or trl:
                    seconds = process(who, epochs, how, trl)
                    warm = WARM.get(how, 1)
                    taken.setdefault((who, how), []).extend(seconds[warm:])
                    warming.setdefault((who, how), []).append(sum(seconds[:warm]))
    medians = {key: round(statistics.median(seconds), 3) for key, seconds in taken.items()}
    mine = {how: value for (who, how), value in medians.items() if who == "ours"}
    theirs = {f"microbatch {how}": value for (who, how), value in medians.items() if who == "trl"}
    best, rate = min(mine.values()), flop_rate()
    return {
        "workload": f"cpu_ppo_{epochs}",
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": library_versions() | ({"trl baseline": "1.12.0"} if trl else {}),
        "ours": best,
        "ours_is": min(mine, key=lambda how: mine[how]),
        **({"baseline": min(theirs.values())} if theirs else {}),
        "unit": f"seconds an iteration, median of {rounds} x {MEASURED}: {EPISODES} episodes "
        f"of {PROMPT} + {RESPONSE} tokens, {epochs} epoch(s), float32",
        **({"ratio": round(min(theirs.values()) / best, 2)} if theirs else {}),
        "floor_fraction": round(floor_flops(epochs) / rate / best, 3),
        "seconds": round(time.perf_counter() - start, 1),
        "floor": {
            "gflop": round(floor_flops(epochs) / 1e9, 1),
            "gflop_s": round(rate / 1e9, 1),
        },
        "options": {
            how: {
                "seconds": value,
                "warming_up_seconds": round(statistics.median(warming["ours", how]), 1),
                "settings": OURS[how],
            }
            for how, value in mine.items()
        },
        "trl": theirs,
    }


def process(who: str, epochs: int, how: str, trl: Path | None) -> list[float]:
    """Seconds of each iteration, in a process of its own."""
    environment = dict(os.environ)
    if who == "trl":
        environment["PYTHONPATH"] = f"{trl}:{environment.get('PYTHONPATH', '')}"
    command = [sys.executable, __file__, "--one", who, str(epochs), how]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def ours(epochs: int, how: str) -> list[float]:
    """The production loop over `separate` roles read from directories."""
    from rlhf.config.schema import PPOSection
    from rlhf.demo.models import train_tokenizer
    from rlhf.models.export import save_checkpoint, save_reward_model
    from rlhf.models.load import load_tokenizer
    from rlhf.models.roles import build_roles
    from rlhf.ppo import loop
    from rlhf.runtime.metrics import MetricsLog

    actor, reward = models()
    stamps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        base, scorer, out = (Path(folder) / name for name in ("base", "reward", "out"))
        out.mkdir()
        base.mkdir()
        (base / "tokenizer.model").write_bytes(
            train_tokenizer(words(), VOCABULARY, dummy_prefix=False)
        )
        actor.config.save_pretrained(base)
        tokenizer = load_tokenizer(base)
        save_checkpoint(actor, tokenizer, base)
        save_reward_model(reward, tokenizer, scorer, score_mean=0.0, score_std=1.0)
        section = PPOSection.model_validate(
            {
                "roles": "separate",
                "iterations": WARM.get(how, 1) + MEASURED,
                "rollout_batch": EPISODES,
                "minibatch": EPISODES,
                "epochs": epochs,
                "critic_warmup": 0,
                "max_prompt_tokens": PROMPT,
                "checkpoint_every": 100,
                "tuning": {"method": "full"},
                "sampling": {"max_new_tokens": RESPONSE},
                **OURS[how],
            }
        )
        roles = build_roles(
            "separate", base, scorer, tuning=section.tuning, dtype=torch.float32, device="cpu"
        )
        with MetricsLog(out, ()) as metrics:
            stamps.append(time.perf_counter())
            loop.train(
                roles,
                prompts(),
                section,
                score_statistics=(0.0, 1.0),
                output_dir=out,
                seed=0,
                metrics=metrics,
                on_iteration=lambda *shown: stamps.append(time.perf_counter()),
            )
    return differences(stamps)


def trls(epochs: int, how: str) -> list[float]:
    """TRL's own train(), of as many iterations. how: its microbatch size."""
    import copy

    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Stamps(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            stamps.append(time.perf_counter())

    stamps: list[float] = []
    microbatch = int(how)
    actor, reward = models()
    names = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(names, unk_token="<s>")),
        pad_token="<pad>",
        eos_token="</s>",
        padding_side="left",
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=microbatch,
                gradient_accumulation_steps=EPISODES // microbatch,
                local_rollout_forward_batch_size=microbatch,
                num_mini_batches=1,
                num_ppo_epochs=epochs,
                total_episodes=EPISODES * (MEASURED + 2),
                num_sample_generations=0,
                response_length=RESPONSE,
                temperature=1.0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
            ),
            processing_class=tokenizer,
            model=actor,
            ref_model=copy.deepcopy(actor),
            reward_model=reward,
            value_model=copy.deepcopy(reward),
            train_dataset=Dataset.from_list([{"input_ids": ids} for ids in prompts()]),
            callbacks=[Stamps()],
        )
        trainer.train()
    return differences(stamps)[: MEASURED + 1]


def models() -> tuple[Any, Any]:
    from rlhf.models.baichuan.configuration import BaichuanConfig
    from rlhf.models.baichuan.modeling import (
        BaichuanForCausalLM,
        BaichuanForSequenceClassification,
    )

    torch.manual_seed(0)
    config = BaichuanConfig(
        vocab_size=VOCABULARY,
        num_attention_heads=HEADS,
        model_max_length=256,
        position_embedding="rope",
        pad_token_id=0,
        eos_token_id=2,
        num_labels=1,
        **SHAPE,
    )
    actor, reward = BaichuanForCausalLM(config), BaichuanForSequenceClassification(config)
    torch.nn.init.normal_(reward.score.weight, std=0.02)
    return actor, reward


def words() -> list[str]:
    """Random ones, enough of them for a vocabulary of this size."""
    draw = random.Random(0)
    return ["".join(draw.choices(string.ascii_lowercase, k=8)) for _ in range(2 * VOCABULARY)]


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    ids: list[list[int]] = torch.randint(
        300, VOCABULARY, (6 * EPISODES, PROMPT), generator=generator
    ).tolist()
    return ids


def differences(stamps: list[float]) -> list[float]:
    """Between neighbours."""
    return [end - start for start, end in zip(stamps, stamps[1:], strict=False)]


def floor_flops(epochs: int) -> float:
    """2 a weight and token forwards, 6 with the backward pass; attention's products left out."""
    width, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    trunk = SHAPE["num_hidden_layers"] * (4 * width**2 + 3 * width * inner)
    head = width * VOCABULARY
    tokens, answers = EPISODES * (PROMPT + RESPONSE), EPISODES * RESPONSE
    generated = 2 * trunk * tokens + 2 * head * answers
    scored = 2 * trunk * tokens + (2 * trunk * tokens + 2 * head * answers)
    updated = 2 * 6 * trunk * tokens + 6 * head * answers
    return generated + scored + epochs * updated


def flop_rate(size: int = 3000, repeats: int = 9) -> float:
    """Of a square float32 product; the best of several, for a floor is the hardware's."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def library_versions() -> dict[str, str]:
    from rlhf.runtime.usage import versions

    return versions()


if __name__ == "__main__":
    main()
