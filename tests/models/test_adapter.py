from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora, check_adapter
from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from rlhf.models.checkpoint import check_checkpoint
from rlhf.models.export import merge_adapter, save_reward_model
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.source import find_source
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


def test_no_adapter_on_a_head_that_normalises() -> None:
    """Its logits would be normalised(W) x + B A x: no W + B A gives those when it is normalised."""
    tuning = TuningSection(method="lora", r=2, targets=("W_pack", "lm_head"))
    with pytest.raises(ValueError, match="no layer 'lm_head' to adapt.* from W_pack") as error:
        add_lora(tiny_model("baichuan2-7b"), tuning, "causal")
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_an_adapter_on_a_plain_head_is_merged() -> None:
    tuning = TuningSection(method="lora", r=2, targets=("W_pack", "lm_head"))
    model, ids = add_lora(tiny_model("baichuan-7b"), tuning, "causal").eval(), torch.arange(3, 20)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
    adapted = model(input_ids=ids[None]).logits
    assert torch.allclose(merge_adapter(model)(input_ids=ids[None]).logits, adapted, atol=1e-4)


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


# What PEFT makes of it answers as it was trained, and merged as another model.
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": ["W_pack", "lm_head"]}, "made for 'lm_head'.*cannot be merged"),
        ({"target_modules": r".*(W_pack|lm_head)"}, "made for 'lm_head'.*cannot be merged"),
        ({"target_modules": r".*embed_tokens"}, "made for 'embed_tokens'"),
        ({"target_modules": r"nothing"}, "Target modules nothing not found"),
        ({"lora_bias": True}, r"not a plain LoRA adapter \(lora_bias is set\)"),
        ({"trainable_token_indices": [3]}, r"\(trainable_token_indices is set\)"),
        ({"target_parameters": ["W_pack.weight"]}, r"\(target_parameters is set\)"),
        ({"layer_replication": [[0, 2], [1, 2]]}, r"\(layer_replication is set\)"),
    ],
)
def test_one_line_for_an_adapter_that_cannot_be_merged(
    checkpoint: Callable[..., Path], tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    base, adapter = checkpoint(), tmp_path / "adapter"
    tuning = TuningSection(method="lora", r=2, targets=("W_pack",))
    add_lora(load_causal_lm(base, **CPU), tuning, "causal").save_pretrained(str(adapter))
    assert find_source(base, adapter).adapter == adapter
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    with pytest.raises(ValueError, match=said) as caught:
        find_source(base, adapter)
    assert "\n" not in str(caught.value) and str(adapter) in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (["self_attn.W_pack"], 2),
        (["model.layers.0.self_attn.W_pack", "model.layers.1.mlp.down_proj"], 2),
        (["layers.1.self_attn.W_pack"], 1),
    ],
)
def test_targets_may_be_paths(
    checkpoint: Callable[..., Path], tmp_path: Path, targets: list[str], adapted: int
) -> None:
    """As PEFT takes them, whole or their ends."""
    base, adapter = checkpoint(), tmp_path / "adapter"
    lora = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")
    get_peft_model(load_causal_lm(base, **CPU), lora).save_pretrained(str(adapter))
    assert len(load_file(adapter / WEIGHTS)) == 2 * adapted
    assert find_source(base, adapter).adapter == adapter
    config = adapter / "adapter_config.json"
    for wrong in ("model.lm_head", "self_attn.q_proj"):
        fields = json.loads(config.read_text()) | {"target_modules": [wrong]}
        config.write_text(json.dumps(fields))
        with pytest.raises(ValueError, match=f"made for '{wrong.rpartition('.')[2]}'"):
            find_source(base, adapter)


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
