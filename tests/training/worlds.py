"""Tiny models and data for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerFast

from rlhf.config.schema import OptimiserSection, RMSection, SFTSection
from rlhf.data.datasets import RankingDataset, RankingItem
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import (
    BaichuanForCausalLM,
    BaichuanForSequenceClassification,
)
from rlhf.models.load import load_reward_model

VOCABULARY = 32


class Rows:
    """Keeps what a run logs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log(self, step: int, fields: dict[str, float]) -> None:
        self.rows.append({"step": step, **fields})

    def sync(self) -> None:
        """There is no disk."""

    def of(self, name: str) -> list[float]:
        return [row[name] for row in self.rows if name in row]


def config(**changes: Any) -> BaichuanConfig:
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "model_max_length": 64,
        "norm_head": True,
        "position_embedding": "rope",
        "pad_token_id": 0,
    }
    return BaichuanConfig(**{**settings, **changes})


def language_model(**changes: Any) -> BaichuanForCausalLM:
    torch.manual_seed(0)
    return BaichuanForCausalLM(config(**changes))


def reward_model(**changes: Any) -> BaichuanForSequenceClassification:
    torch.manual_seed(0)
    return BaichuanForSequenceClassification(config(**changes))


def saved_trunk(path: Path) -> Path:
    save(language_model(), path)
    return path


def save(model: Any, path: Path) -> None:
    model.save_pretrained(path)
    (path / "tokenizer.model").touch()  # its name belongs to a whole checkpoint


def fresh_reward_model(trunk: Path, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return load_reward_model(trunk, dtype=dtype, device="cpu")


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    names = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(names, unk_token="<unk>")),
        unk_token="<unk>",
        pad_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


def conversations(count: int, seed: int = 0) -> datasets.Dataset:
    """Of various lengths; the answer is the question's last word, three times, then EOS."""
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for _ in range(count):
        length = int(torch.randint(2, 7, (), generator=generator))
        question = torch.randint(4, 12, (length,), generator=generator).tolist()
        answer = [question[-1]] * 3 + [2]
        rows["input_ids"].append([3, *question, *answer])
        rows["labels"].append([-100] * (1 + length) + answer)
    return datasets.Dataset.from_dict(rows)


def sft_section(**changes: Any) -> SFTSection:
    settings: dict[str, Any] = {
        "max_length": 32,
        "batch_size": 8,
        "microbatch_size": 4,
        "max_steps": 12,
        "eval_every": 4,
        "checkpoint_every": 6,
        "packing": False,
        "optimiser": OptimiserSection(learning_rate=1e-2),
    }
    return SFTSection(**{**settings, **changes})


class _Record:
    def __init__(self, name: str, ranks: tuple[int, ...], grades: tuple[int, ...]) -> None:
        self.id, self.ranks, self.grades = name, ranks, grades


def rankings(count: int, seed: int = 0) -> RankingDataset:
    """K of 3 or 4 responses; the more often word 5 stands among the words 5 and 6, the better."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for index in range(count):
        size = 3 + index % 2
        prompt = torch.randint(7, 20, (3,), generator=generator).tolist()
        goods = torch.randperm(5, generator=generator)[:size].tolist()
        order = sorted(goods, reverse=True)
        ranks = tuple(order.index(good) + 1 for good in goods)
        sequences = tuple((*prompt, *[5] * good, *[6] * (4 - good), 2) for good in goods)
        record: Any = _Record(f"r{index}", ranks, (2,) * (size - 1))
        items.append(RankingItem(record, tuple(range(size)), sequences, ranks))
    return RankingDataset(tuple(items), 0, 0, 0)


def rm_section(**changes: Any) -> RMSection:
    settings: dict[str, Any] = {
        "batch_size": 8,
        "microbatch_size": 4,
        "max_steps": 12,
        "eval_every": 4,
        "checkpoint_every": 6,
        "optimiser": OptimiserSection(learning_rate=3e-3),
    }
    return RMSection(**{**settings, **changes})


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def checkpoints(path: Path) -> list[str]:
    return sorted(entry.name for entry in (path / "checkpoints").iterdir())
