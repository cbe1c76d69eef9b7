from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.config.schema import TuningSection
from rlhf.data.chat_format import encode_conversation, encode_prompt
from rlhf.models.adapter import add_lora
from rlhf.models.chat import ChatTurn
from rlhf.models.checkpoint import checkpoint_hash, score_statistics
from rlhf.models.export import fold_adapter, merge_adapter, save_checkpoint, save_reward_model
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.registry import spec_of
from tests.checkpoints import ARCHITECTURES

CPU = {"dtype": torch.float32, "device": "cpu"}
LORA = TuningSection(method="lora", r=4, alpha=8)
IDS = torch.arange(3, 43).view(2, 20)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Adapters start at zero, which would hide a lost one."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return model.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_saved_natively(checkpoint: Callable[..., Path], tmp_path: Path, architecture: str) -> None:
    path, out = checkpoint(architecture), tmp_path / "out"
    model = load_causal_lm(path, **CPU)
    save_checkpoint(model, load_tokenizer(path), out)
    assert not [*out.glob("*.py"), *out.glob("*.bin")]
    assert torch.equal(load_causal_lm(out, **CPU)(IDS).logits, model(IDS).logits)
    again = AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(again(IDS).logits, model(IDS).logits, atol=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert "auto_map" not in config and config["architectures"] == ["BaichuanForCausalLM"]


@pytest.mark.parametrize(("architecture", "end"), [("baichuan-13b", "</s>"), ("baichuan2-7b", "")])
def test_chat_template_is_saved(
    checkpoint: Callable[..., Path], tmp_path: Path, architecture: str, end: str
) -> None:
    path = checkpoint(architecture)
    save_checkpoint(load_causal_lm(path, **CPU), load_tokenizer(path), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi\n"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    user, assistant = "<reserved_193>", "<reserved_194>"
    assert text == f"Be brief.{user} Hi\n{assistant}Hello{end}{user}Bye{assistant}"
    answered = tokenizer.apply_chat_template(messages[:3], tokenize=False)
    assert answered == f"Be brief.{user} Hi\n{assistant}Hello</s>"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids.count(195) == 2 and ids.count(196) == 2 and ids[-1] == 196


SPOKEN = [" Hi\n", "你好 <reserved_3> a", "  ", "", "Bye", " x"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_template_gives_the_ids_of_training(
    checkpoint: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    """Also those of the first generation, which reads a space in front of every text."""
    path = checkpoint(architecture)
    spec, ours = spec_of(path), load_tokenizer(path)
    turns = [ChatTurn(*each) for each in zip(["user", "assistant"] * 3, SPOKEN, strict=True)]
    whole = encode_conversation(spec, ours, turns).input_ids
    asked = encode_prompt(spec, ours, turns[:-1])
    save_checkpoint(load_causal_lm(path, **CPU), ours, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    chat = [turn._asdict() for turn in turns]
    assert tokenizer.apply_chat_template(chat)["input_ids"] == whole
    prompt = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True)
    assert prompt["input_ids"] == asked
    assert tokenizer(tokenizer.apply_chat_template(chat, tokenize=False))["input_ids"] == whole
    for again in (ours, load_tokenizer(tmp_path / "out")):  # training goes on with what it had
        assert encode_conversation(spec, again, turns).input_ids == whole
        assert len(again) == 512


def test_whoever_may_read_the_config_may_read_the_weights(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = checkpoint("baichuan-7b")
    language = add_lora(load_causal_lm(path, **CPU), LORA, "causal")
    save_checkpoint(language, load_tokenizer(path), tmp_path / "merged")
    scorer = add_lora(load_reward_model(path, **CPU), LORA, "reward")
    save_reward_model(
        scorer, load_tokenizer(path), tmp_path / "reward", score_mean=0.0, score_std=1.0
    )
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert len([each for each in files if each.suffix == ".safetensors"]) == 3
    assert len({each.stat().st_mode for each in files}) == 1


@torch.no_grad()
def test_merging_leaves_the_adapted_model_alone(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = checkpoint("baichuan2-13b")
    base = load_causal_lm(path, **CPU)(IDS).logits
    model = shaken(add_lora(load_causal_lm(path, **CPU), LORA, "causal"))
    adapted = model(IDS).logits
    assert (adapted - base).abs().max() > 0.1
    assert torch.allclose(merge_adapter(model)(IDS).logits, adapted, atol=1e-4)
    save_checkpoint(model, load_tokenizer(path), tmp_path / "out")
    assert torch.allclose(load_causal_lm(tmp_path / "out", **CPU)(IDS).logits, adapted, atol=1e-4)
    assert torch.equal(model(IDS).logits, adapted)
    with model.disable_adapter():
        assert torch.equal(model(IDS).logits, base)
    # The adapter by itself makes the same model of its base again, to the last bit.
    alone = PeftModel.from_pretrained(load_causal_lm(path, **CPU), str(tmp_path / "out/adapter"))
    merged = merge_adapter(alone).state_dict()
    whole = load_causal_lm(tmp_path / "out", **CPU).state_dict()
    assert all(torch.equal(merged[name], weight) for name, weight in whole.items())


def test_folding_gives_what_merging_copies(checkpoint: Callable[..., Path]) -> None:
    """To the last bit, in bfloat16, of a reward model with the head that it was trained with."""
    trunk = load_reward_model(checkpoint("baichuan2-7b"), dtype=torch.bfloat16, device="cpu")
    model = shaken(add_lora(trunk, LORA, "reward"))
    merged = merge_adapter(model).state_dict()
    folded = fold_adapter(model)
    assert type(folded) is type(trunk) and folded.state_dict().keys() == merged.keys()
    assert all(torch.equal(folded.state_dict()[name], merged[name]) for name in merged)


@torch.no_grad()
def test_whole_reward_model_bit_for_bit(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path, out = checkpoint(), tmp_path / "rm"
    model = shaken(load_reward_model(path, **CPU))
    save_reward_model(model, load_tokenizer(path), out, score_mean=0.5, score_std=2.0)
    assert torch.equal(load_reward_model(out, **CPU)(IDS).logits, model(IDS).logits)
    assert score_statistics(out) == (0.5, 2.0) and score_statistics(path) == (None, None)


@torch.no_grad()
def test_adapted_reward_model_bit_for_bit(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path, out = checkpoint(), tmp_path / "rm"
    model = shaken(add_lora(load_reward_model(path, **CPU), LORA, "reward"))
    save_reward_model(model, load_tokenizer(path), out, score_mean=0.5, score_std=None)
    assert not (out / "model.safetensors").exists()
    record = json.loads((out / "rlhf_adapter.json").read_text())
    expected = {"base_checkpoint_hash": checkpoint_hash(path), "base": "../base"}
    assert record == expected | {"quantization": None}
    again = load_reward_model(out, **CPU)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert torch.equal(again.token_scores(IDS), model.token_scores(IDS))
    assert score_statistics(out) == (0.5, None) and again.config.score_mean == 0.5
    assert torch.allclose(merge_adapter(again)(IDS).logits, model(IDS).logits, atol=1e-5)


def test_equal_adapters_have_equal_files(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """PEFT holds the targets as a set, whose order is another in another process."""
    path, targets = checkpoint("baichuan2-7b"), ["W_pack", "o_proj", "gate_proj", "down_proj"]
    tokenizer = load_tokenizer(path)
    for turn in (1, -1):
        policy = add_lora(load_causal_lm(path, **CPU), LORA, "causal")
        policy.peft_config["default"].target_modules = Shuffled(targets[::turn])
        save_checkpoint(policy, tokenizer, tmp_path / f"policy{turn}")
        rewarding = add_lora(load_reward_model(path, **CPU), LORA, "reward")
        rewarding.peft_config["default"].target_modules = Shuffled(targets[::turn])
        save_reward_model(
            rewarding, tokenizer, tmp_path / f"reward{turn}", score_mean=0.0, score_std=1.0
        )
    for name in ("policy{}/adapter/adapter_config.json", "reward{}/adapter_config.json"):
        one, other = ((tmp_path / name.format(turn)).read_text() for turn in (1, -1))
        assert one == other
        assert json.loads(one)["target_modules"] == sorted(targets)


class Shuffled(set[str]):
    """A set that is gone through in the order that it was given."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self._names = names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)


def test_an_adapter_knows_its_base(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path, out = checkpoint(), tmp_path / "rm"
    model = add_lora(load_reward_model(path, **CPU), LORA, "reward")
    save_reward_model(model, load_tokenizer(path), out, score_mean=None, score_std=None)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("base", "rm"):
        (tmp_path / name).rename(moved / name)
    load_reward_model(moved / "rm", **CPU)
    config = json.loads((moved / "base/config.json").read_text())
    (moved / "base/config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    with pytest.raises(ValueError, match="has changed since"):
        load_reward_model(moved / "rm", **CPU)
    (moved / "base").rename(moved / "other")
    with pytest.raises(ValueError, match="is gone"):
        load_reward_model(moved / "rm", **CPU)
    (moved / "rm/rlhf_adapter.json").unlink()
    with pytest.raises(ValueError, match="rlhf_adapter.json"):
        load_reward_model(moved / "rm", **CPU)
