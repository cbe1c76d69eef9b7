from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora, check_adapter
from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from rlhf.models.export import save_reward_model
from rlhf.models.load import check_checkpoint, load_reward_model, load_tokenizer
from tests.checkpoints import tiny_model

CPU = {"dtype": torch.float32, "device": "cpu"}
WEIGHTS = "adapter_model.safetensors"
OLD_WEIGHTS = "adapter_model.bin"


def test_all_linear_means_the_five_kinds() -> None:
    model = add_lora(tiny_model("baichuan2-7b"), TuningSection(method="lora", r=2), "causal")
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 5 * 2  # layers, kinds, A and B
    assert all("lora_" in name for name in learning)
    kinds = {name.split(".lora_")[0].rpartition(".")[2] for name in learning}
    assert kinds == {"W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("kind", ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"])
def test_any_kind_may_learn_alone(kind: str) -> None:
    tuning = TuningSection(method="lora", r=2, targets=(kind,))
    model = add_lora(tiny_model("baichuan2-13b"), tuning, "causal")
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 2 and all(f".{kind}.lora_" in name for name in learning)


def test_a_reward_models_head_is_trained_whole() -> None:
    model = BaichuanForSequenceClassification(tiny_model("baichuan2-7b").config)
    tuning = TuningSection(method="lora", r=2, targets=("W_pack",))
    adapted = add_lora(model, tuning, "reward")
    learning = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * 2 + 1
    assert [p.shape for name, p in learning.items() if "score" in name] == [(1, 64)]


def test_targets_of_another_architecture() -> None:
    tuning = TuningSection(method="lora", targets=("q_proj", "v_proj"))
    with pytest.raises(ValueError, match="'q_proj'.*W_pack"):
        add_lora(tiny_model("baichuan2-7b"), tuning, "causal")


def reward_adapter(base: Path, out: Path) -> Path:
    tuning = TuningSection(method="lora", r=2, targets=("W_pack", "o_proj"))
    model = add_lora(load_reward_model(base, **CPU), tuning, "reward")
    save_reward_model(model, load_tokenizer(base), out, score_mean=0.0, score_std=1.0)
    return out


class Code:
    """Nobody who reads weights alone runs this."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("code has run",)


def damage(adapter: Path, how: str) -> None:
    config, weights = adapter / "adapter_config.json", adapter / WEIGHTS
    fields, tensors = json.loads(config.read_text()), load_file(weights)
    if how == "split":
        fields["target_modules"] = ["q_proj", "k_proj", "v_proj"]
        tensors = {name.replace("W_pack", "q_proj"): part for name, part in tensors.items()}
    elif how == "another rank":
        fields["r"] = 4
    elif how == "fewer targets":
        fields["target_modules"] = ["W_pack"]
    elif how == "no head":
        del tensors["base_model.model.score.weight"]
    elif how == "a tensor less":
        del tensors["base_model.model.model.layers.1.self_attn.W_pack.lora_B.weight"]
    elif how == "not LoRA":
        fields["peft_type"] = "IA3"
    save_file(tensors, weights)
    config.write_text(json.dumps(fields) if how != "broken config" else "{")
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how in ("no weights", "truncated bin", "code in a bin"):
        weights.unlink()
    if how == "code in a bin":
        torch.save(tensors | {"more": Code()}, adapter / OLD_WEIGHTS)
    elif how == "truncated bin":
        torch.save(tensors, adapter / OLD_WEIGHTS)
        (adapter / OLD_WEIGHTS).write_bytes((adapter / OLD_WEIGHTS).read_bytes()[:-10])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("split", "'k_proj'.*W_pack"),
        ("another rank", r"\(2, 64\) in place of \(4, 64\)"),
        ("fewer targets", "o_proj.* in place of None"),
        ("no head", "score.weight: None in place of"),
        ("a tensor less", "layers.1.self_attn.W_pack.lora_B.weight: None"),
        ("not LoRA", "not a plain LoRA adapter"),
        ("broken config", "not valid JSON"),
        ("truncated", "truncated or damaged"),
        ("no weights", "adapter_model.safetensors missing"),
        ("truncated bin", "truncated or damaged"),
        ("code in a bin", "truncated or damaged"),
    ],
)
def test_one_line_for_an_adapter_that_does_not_fit(
    checkpoint: Callable[..., Path], tmp_path: Path, how: str, said: str
) -> None:
    adapter = reward_adapter(checkpoint(), tmp_path / "adapter")
    check_checkpoint(adapter)
    damage(adapter, how)
    for check in (check_checkpoint, lambda path: load_reward_model(path, **CPU)):
        with pytest.raises(ValueError, match=said) as caught:
            check(adapter)
        assert "\n" not in str(caught.value) and str(adapter) in str(caught.value)


def test_an_adapter_from_before_safetensors(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    adapter, ids = reward_adapter(checkpoint(), tmp_path / "adapter"), torch.arange(3, 20)[None]
    expected = load_reward_model(adapter, **CPU)(input_ids=ids).logits
    torch.save(load_file(adapter / WEIGHTS), adapter / OLD_WEIGHTS)
    (adapter / WEIGHTS).unlink()
    check_checkpoint(adapter)
    assert torch.equal(load_reward_model(adapter, **CPU)(input_ids=ids).logits, expected)


def test_an_adapter_of_another_size(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    adapter = reward_adapter(checkpoint("baichuan2-13b"), tmp_path / "adapter")
    with pytest.raises(ValueError, match="made for another model or rank"):
        check_adapter(adapter, tiny_model("baichuan2-7b").config)


def test_checking_draws_no_random_numbers(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    adapter = reward_adapter(checkpoint(), tmp_path / "adapter")
    before = torch.get_rng_state()
    check_checkpoint(adapter)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(load_reward_model(adapter, **CPU), PeftModel)
