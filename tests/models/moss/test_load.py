from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.checkpoint import check_checkpoint
from rlhf.models.export import save_checkpoint, save_reward_model
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.moss.modeling import MossForCausalLM, MossForSequenceClassification
from rlhf.models.moss.tokenization import MossTokenizer
from rlhf.models.registry import REGISTRY, read_config, spec_of
from rlhf.models.roles import build_roles
from tests.models.moss.conftest import official_config, tiny_model

CPU = {"dtype": torch.float32, "device": "cpu"}
IDS = torch.arange(3, 20)[None]


@torch.no_grad()
def test_official_directory_there_and_back(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path, again = checkpoint(), tmp_path / "again"
    check_checkpoint(path, "moss-moon-003")
    model, tokenizer = load_causal_lm(path, **CPU), load_tokenizer(path)
    vocabulary = read_config(path).vocab_size
    assert torch.equal(model(IDS).logits, tiny_model(vocabulary)(IDS).logits)
    save_checkpoint(model, tokenizer, again)
    check_checkpoint(again, "moss-moon-003")
    assert torch.equal(load_causal_lm(again, **CPU)(IDS).logits, model(IDS).logits)
    text = "<|Human|>: 你好 world<eoh>\n"
    assert load_tokenizer(again).encode(text) == tokenizer.encode(text)
    assert "auto_map" not in json.loads((again / "config.json").read_text())


@pytest.mark.parametrize("trust", [False, True])
def test_auto_classes_never_run_the_directory_s_code(
    checkpoint: Callable[..., Path], trust: bool
) -> None:
    path, options = checkpoint(), {"trust_remote_code": trust}
    assert type(AutoModelForCausalLM.from_pretrained(path, **options)) is MossForCausalLM
    scorer = AutoModelForSequenceClassification.from_pretrained(path, **options)
    assert type(scorer) is MossForSequenceClassification
    assert type(AutoTokenizer.from_pretrained(path, **options)) is MossTokenizer


def test_tokenizer_ends_answers_with_eom(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint()
    tokenizer = load_tokenizer(path)
    vocabulary = read_config(path).vocab_size
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (vocabulary - 1, vocabulary - 6)
    text = " 你好\n\tx  <eoh>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and ids[-1] == vocabulary - 5
    assert tokenizer.decode(ids, skip_special_tokens=True) == " 你好\n\tx  "
    spelt = tokenizer.encode("<eoh><eom>", split_special_tokens=True)
    assert max(spelt) < vocabulary - 6


def test_spec_has_the_checkpoint_s_own_sizes(checkpoint: Callable[..., Path]) -> None:
    spec, official = spec_of(checkpoint()), REGISTRY["moss-moon-003"]
    assert (spec.hidden_size, spec.intermediate_size, spec.layers, spec.heads) == (64, 256, 2, 4)
    assert spec.name == official.name and spec.lora_targets == official.lora_targets


def test_an_official_int4_directory_is_refused(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint()
    fields = official_config(300) | {"wbits": 4}
    (path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"{path}: .*moss-moon-003-sft") as caught:
        load_causal_lm(path, **CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "pytorch_model-00001-of-00002.bin"])
def test_a_missing_file_is_named(checkpoint: Callable[..., Path], name: str) -> None:
    path = checkpoint()
    (path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} missing"):
        check_checkpoint(path)


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_roles(checkpoint: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    """An adapter over the trunk as the reward model; the actor starts as the reference."""
    path, reward = checkpoint(), tmp_path / "reward"
    tuning = TuningSection(method="lora", targets="all-linear", r=2)
    adapted = add_lora(load_reward_model(path, **CPU), tuning, "reward")
    save_reward_model(adapted, load_tokenizer(path), reward, score_mean=0.0, score_std=1.0)
    roles = build_roles(kind, path, reward, tuning=tuning, **CPU)
    assert roles.width_unit == 0
    mask = torch.ones_like(IDS)
    logits = roles.actor_logits(IDS, mask, 4)
    assert torch.allclose(logits, roles.reference_logits(IDS, mask, 4), atol=1e-5)
    scores = load_reward_model(reward, **CPU)(IDS).logits.squeeze(-1)
    assert torch.allclose(roles.scores(IDS, mask), scores, atol=1e-5)
    roles.save_critic(tmp_path / "critic")
    critic = load_reward_model(tmp_path / "critic", **CPU)
    assert torch.allclose(critic.token_scores(IDS), roles.values(IDS, mask), atol=1e-5)
