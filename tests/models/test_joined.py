from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_model
from torch import nn
from torch.distributed.fsdp import FSDPModule

from rlhf.config.schema import SamplingSection
from rlhf.generation import generate
from rlhf.models.joined import join, separate
from tests.checkpoints import ARCHITECTURES, tiny_model

PAIR = ["gate", "up"]
TARGETS = ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(model: nn.Module, rank: int = 8, **options: Any) -> PeftModel:
    config = LoraConfig(r=rank, lora_alpha=12, target_modules=TARGETS, **options)
    found: PeftModel = get_peft_model(model, config)
    return learnt(found.eval())


def learnt(model: PeftModel) -> PeftModel:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3)
    return model


def moved(model: nn.Module) -> set[int]:
    """Where there is more memory than of one weight."""
    storages = [(weight.untyped_storage(), weight.nbytes) for weight in model.parameters()]
    return {storage.data_ptr() for storage, size in storages if storage.nbytes() > size}


def answers(model: Any, engine: str) -> list[tuple[int, ...]]:
    found = generate(
        model,
        [[5, 9, 11], [4], [30, 31, 32, 33, 34, 35]],
        SamplingSection(max_new_tokens=24, temperature=0),
        pad_id=0,
        eos_id=2,
        generator=torch.Generator().manual_seed(0),
        batch_size=8,
        engine=engine,
    )
    return [one.token_ids for one in found]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_slot_engine_samples_an_adapter_as_generate_does(architecture: str) -> None:
    trunk = tiny_model(architecture)
    model = adapted(trunk)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    assert answers(trunk, "slots") == answers(trunk, "plain")
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    held = moved(trunk)
    assert len(held) == 4 * len(trunk.model.layers)  # what feeds gate and up is read once
    learnt(model)  # as after an update: what was joined is out of date
    assert answers(trunk, "slots") == answers(trunk, "plain")
    assert moved(trunk) == held
    with model.disable_adapter():
        assert answers(trunk, "slots") == answers(trunk, "plain")


def test_products_by_hand() -> None:
    part = nn.Sequential(nn.Linear(3, 2, bias=False))
    model = get_peft_model(part, LoraConfig(r=8, lora_alpha=4, target_modules=["0"]))
    learnt(model)
    layer: Any = model.base_model.model[0]
    states, weight = torch.randn(5, 3), layer.base_layer.weight.detach().clone()
    product = join([layer])
    assert product is not None
    first, second = layer.lora_A.default.weight, layer.lora_B.default.weight
    expected = states @ weight.T + 0.5 * states @ first.T @ second.T
    torch.testing.assert_close(product(states), expected)
    torch.testing.assert_close(product(states), layer(states))
    torch.testing.assert_close(product(states, layer(states)), 2 * layer(states))
    assert torch.equal(layer.base_layer.weight, weight)
    assert layer.base_layer.weight.data_ptr() == product.weight.data_ptr()


def test_what_is_no_plain_product_stays_as_it_is() -> None:
    def first_of(**options: Any) -> Any:
        model = get_peft_model(
            nn.Sequential(nn.Linear(8, 8, bias=options.pop("biased", False))),
            LoraConfig(target_modules=["0"], **options),
        )
        return model.base_model.model[0]

    assert join([nn.Linear(2, 2)]) is None
    assert join([first_of(r=8)]) is not None
    assert join([first_of(r=6)]) is None and join([first_of(r=72)]) is None
    assert join([first_of(r=8, use_dora=True)]) is None
    assert join([first_of(r=8, biased=True)]) is None
    assert join([first_of(r=8, lora_bias=True)]) is None
    merged = first_of(r=8)
    merged.merge()
    assert join([merged]) is None
    merged.unmerge()
    assert join([merged]) is not None
    learning = first_of(r=8)
    learning.base_layer.requires_grad_(True)  # whoever trains it may hold its place
    assert join([learning]) is None
    typed = first_of(r=8)
    typed.base_layer.to(torch.bfloat16)
    assert join([typed]) is None


def gated(layers: list[Any], states: torch.Tensor) -> torch.Tensor:
    gate, up = (layer(states) for layer in layers)
    return nn.functional.silu(gate) * up


def test_two_that_read_the_same_states() -> None:
    part: Any = nn.ModuleDict({name: nn.Linear(3, 4, bias=False) for name in PAIR})
    config = LoraConfig(r=8, target_modules=PAIR, rank_pattern={"up": 16})
    model = learnt(get_peft_model(part, config))
    layers: list[Any] = [model.base_model.get_submodule(f"model.{name}") for name in PAIR]
    weights = [layer.base_layer.weight.detach().clone() for layer in layers]
    states = torch.randn(5, 3)
    product = join(layers)
    assert product is not None and product.weight.shape == (4 + 4 + 8 + 16, 3)
    torch.testing.assert_close(product.gated(states), gated(layers, states))
    for layer, weight in zip(layers, weights, strict=True):
        assert torch.equal(layer.base_layer.weight, weight)
    again = join(layers)
    assert again is not None and again.weight.data_ptr() == product.weight.data_ptr()
    layers[1].base_layer.weight.data = weights[1].clone()  # as what a move to another device does
    learnt(model)
    elsewhere = join(layers)
    assert elsewhere is not None and elsewhere.weight.data_ptr() != product.weight.data_ptr()
    torch.testing.assert_close(elsewhere.gated(states), gated(layers, states))
    layers[0].merge()
    assert join(layers) is None


def test_a_model_whose_weights_have_moved_is_saved_whole(tmp_path: Path) -> None:
    trunk = tiny_model("baichuan2-7b")
    model = adapted(trunk)
    answers(trunk, "slots")
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == merged.state_dict().keys()
    for name, weight in merged.state_dict().items():
        assert torch.equal(saved[name], weight)
    with pytest.raises(RuntimeError, match="shared|suitable"):
        save_model(merged, str(tmp_path / "by_memory.safetensors"))
    separate(merged)
    assert not moved(merged)
    save_model(merged, str(tmp_path / "by_memory.safetensors"))
    by_memory = load_file(tmp_path / "by_memory.safetensors")
    assert all(torch.equal(saved[name], by_memory[name]) for name in saved)


def test_what_is_sampled_in_inference_mode_can_learn() -> None:
    trunk = tiny_model("baichuan2-7b")
    model = adapted(trunk)
    with torch.inference_mode():
        first = answers(trunk, "slots")
    assert answers(trunk, "slots") == first
    ids = torch.arange(3, 12)[None]
    model(input_ids=ids, labels=ids).loss.backward()


def test_weights_that_are_spread_stay_where_they_are() -> None:
    trunk = tiny_model("baichuan2-7b")
    adapted(trunk)
    layer = trunk.model.layers[0]
    layer.__class__ = type("Spread", (FSDPModule, type(layer)), {})
    assert answers(trunk, "slots") == answers(trunk, "plain")
    assert not moved(trunk)
