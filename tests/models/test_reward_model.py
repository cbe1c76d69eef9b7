"""Saved reward models, as transformers, RewardBench and TRL use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rlhf.config.schema import TuningSection
from rlhf.data.records import Message
from rlhf.models.adapter import add_lora
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_reward_model, load_tokenizer
from rlhf.models.prompts import encode_prompt, encode_response
from rlhf.models.quantise import quantization_of
from rlhf.models.registry import spec_of
from rlhf.models.reward_model import RewardModel
from rlhf.models.scoring import score_responses
from rlhf.runtime.quiet import quiet
from tests.llamas import import_with_bos

ASKED = [Message(role="user", content="Hello world, how are you today?")]
ANSWERS = ["The answer is 42.", "今天天气很好，我们去公园。", "Hello."]


def saved(base: Path, out: Path, method: Any, dtype: torch.dtype = torch.float32) -> list[float]:
    """A reward model of random adapter and head, saved to `out`; its scores before that."""
    bits = "nf4" if method == "qlora" else None
    model: Any = load_reward_model(base, dtype=dtype, device="cpu", quantization=bits)
    if method != "full":
        model = add_lora(model, TuningSection(method=method, r=2), "reward")
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "score" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.eval()
    save_reward_model(model, load_tokenizer(base), out, score_mean=0.5, score_std=2.0)
    return score_responses(model, sequences(out), 0, 2)


def sequences(path: Path) -> list[list[int]]:
    spec, tokenizer = spec_of(path), load_tokenizer(path)
    prompt = encode_prompt(spec, tokenizer, ASKED)
    return [prompt + encode_response(spec, tokenizer, answer) for answer in ANSWERS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_it_is_the_same_to_the_last_bit_either_way_it_is_loaded(
    checkpoint: Callable[..., Path], tmp_path: Path, method: str, dtype: torch.dtype
) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    out = tmp_path / "rm"
    scores = saved(checkpoint(), out, method, dtype)
    assert len(set(scores)) == len(ANSWERS)
    ours = load_reward_model(out, dtype=dtype, device="cpu")
    assert score_responses(ours, sequences(out), 0, 2) == scores

    theirs = AutoModelForSequenceClassification.from_pretrained(out, dtype=dtype)
    assert isinstance(theirs, RewardModel) and not theirs.training
    assert score_responses(theirs, sequences(out), 0, 2) == scores
    assert (theirs.config.score_mean, theirs.config.score_std) == (0.5, 2.0)
    assert quantization_of(theirs.config) == ("nf4" if method == "qlora" else None)


def test_a_loaded_adapter_is_saved_as_one(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    saved(checkpoint(), tmp_path / "rm", "lora")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "again" / "model.safetensors").exists()


def test_other_weights_than_it_was_trained_over_are_refused(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    base = checkpoint()
    saved(base, tmp_path / "rm", "lora")
    other = checkpoint(name="other", seed=1)
    (other / "model.safetensors").replace(base / "model.safetensors")
    with pytest.raises(ValueError, match="has changed since"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rewardbenchs_way_with_eos_as_padding(
    checkpoint: Callable[..., Path], tmp_path: Path, method: str, side: str
) -> None:
    """A pipeline over the chat template's text, padded in batches."""
    scores = saved(checkpoint(), tmp_path / "rm", method)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm", padding_side=side)
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    rows = [[ASKED[0].model_dump(), {"role": "assistant", "content": text}] for text in ANSWERS]
    texts = tokenizer.apply_chat_template(rows, tokenize=False)
    assert tokenizer(texts)["input_ids"] == sequences(tmp_path / "rm")

    scorer: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    options = {"batch_size": 3, "padding": True, "truncation": True, "max_length": 128}
    found = scorer(texts, function_to_apply="none", **options)
    assert [row["score"] for row in found] == pytest.approx(scores, abs=1e-5)


def test_the_documented_pipeline_scores_an_imported_model(tmp_path: Path) -> None:
    """Its tokenizer wrote BOS in front of the template's text, which begins with BOS."""
    scores = saved(import_with_bos(tmp_path), tmp_path / "rm", "full")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    rows = [[ASKED[0].model_dump(), {"role": "assistant", "content": text}] for text in ANSWERS]
    texts = tokenizer.apply_chat_template(rows, tokenize=False)
    assert all(ids.count(tokenizer.bos_token_id) == 1 for ids in tokenizer(texts)["input_ids"])
    scorer: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    found = scorer(texts, function_to_apply="none")
    assert [row["score"] for row in found] == pytest.approx(scores, abs=1e-5)


def test_trl_trains_it_on(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from trl import RewardConfig, RewardTrainer

    saved(checkpoint(), tmp_path / "rm", "full")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    before = model.score.weight.detach().clone()
    rows = sequences(tmp_path / "rm")
    settings = RewardConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=1,
        learning_rate=0.1,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    with quiet():
        trainer = RewardTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_dict(
                {"chosen_ids": rows[:2], "rejected_ids": [rows[2], rows[0]]}
            ),
            processing_class=load_tokenizer(tmp_path / "rm"),
        )
        trainer.train()
    assert (model.score.weight - before).abs().max() > 0.01
