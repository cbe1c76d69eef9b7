"""Weights in 4 and 8 bits, by bitsandbytes."""

from __future__ import annotations

import json

import pytest
import torch
from peft.utils.integrations import dequantize_module_weight
from transformers import AutoModelForCausalLM

from rlhf.apps.export import export
from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.export import merge_adapter, save_checkpoint
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.quantise import exact_products, fast_products
from tests.models.moss.conftest import write_checkpoint as write_moss

bitsandbytes = pytest.importorskip("bitsandbytes")
Params4bit, Int8Params = bitsandbytes.nn.Params4bit, bitsandbytes.nn.Int8Params
IDS = torch.randint(3, 500, (2, 17), generator=torch.Generator().manual_seed(0))
# bitsandbytes takes 64 columns at once; on some CPUs it misreads what is left over.
BLOCKS = {"hidden_size": 192, "intermediate_size": 128, "num_attention_heads": 3}
QLORA = TuningSection(method="qlora", r=4, alpha=8, targets="all-linear")


@pytest.fixture
def checkpoint(checkpoint):
    return lambda architecture="baichuan2-7b": checkpoint(architecture, **BLOCKS)


def load(path, quantization=None):
    return load_causal_lm(
        path, dtype=torch.float32, device="cpu", attn="eager", quantization=quantization
    )


@torch.no_grad()
def logits(model):
    return model(IDS % model.config.vocab_size).logits


@pytest.mark.parametrize("architecture", ["baichuan-13b", "baichuan2-7b"])
@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_the_trunk_is_quantised_and_nothing_else(checkpoint, architecture, bits):
    path = checkpoint(architecture)
    plain, quantised = load(path), load(path, bits)
    before = logits(plain)
    for name, layer in quantised.model.named_modules():
        if isinstance(getattr(layer, "weight", None), Params4bit | Int8Params):
            own = plain.model.get_submodule(name)
            weight = dequantize_module_weight(layer)
            assert 0 < (weight - own.weight).norm() / own.weight.norm() < 0.12
            own.weight.data = weight
    # NF4 only stores weights in 4 bits; int8 also rounds what it multiplies them with.
    error = (logits(quantised) - logits(plain)).norm() / before.norm()
    assert error < {"nf4": 1e-5, "int8": 0.08}[bits]
    assert (logits(plain) - before).norm() > 0


def test_only_adapters_learn_on_a_quantised_trunk(checkpoint):
    model = add_lora(load(checkpoint(), "nf4"), QLORA, "causal")
    learning = {name for name, part in model.named_parameters() if part.requires_grad}
    kinds = {name.split(".lora_")[0].rpartition(".")[2] for name in learning}
    assert kinds == {"W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"}
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(part.grad is not None for part in model.parameters() if part.requires_grad)


def tuned_in_4_bits(path, targets, size):
    tuning = QLORA.model_copy(update={"targets": targets})
    tuned = add_lora(load(path, "nf4"), tuning, "causal").eval()
    for name, part in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, std=size)
    return tuned


@pytest.mark.parametrize("targets", ["all-linear", ["W_pack"]])
def test_a_model_tuned_in_4_bits_is_saved_in_plain_weights(checkpoint, tmp_path, targets):
    """Those of its checkpoint, and what it has learnt: also after an evaluation, and where some
    linear layers have no adapter."""
    path, out = checkpoint(), tmp_path / "out"
    tuned = tuned_in_4_bits(path, targets, size=0.05)
    logits(tuned)
    save_checkpoint(tuned, load_tokenizer(path), out)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    saved, before = load(out), load(path).state_dict()
    for name, weight in saved.named_parameters():
        layer = tuned.get_base_model().get_submodule(name.rpartition(".")[0])
        learnt = layer.get_delta_weight("default") if hasattr(layer, "get_delta_weight") else 0
        torch.testing.assert_close(weight, before[name] + learnt)
    same = merge_adapter(tuned)
    assert same.config.to_dict().get("quantization_config") is None
    torch.testing.assert_close(logits(same), logits(tuned), rtol=1e-4, atol=1e-4)


def test_what_it_has_learnt_is_there_in_4_bits_again(checkpoint, tmp_path):
    """Half a step of the 4 bits is some 0.1 of a weight; what was learnt is far below."""
    path, out = checkpoint(), tmp_path / "out"
    tuned = tuned_in_4_bits(path, "all-linear", size=0.002)
    save_checkpoint(tuned, load_tokenizer(path), out)
    changes = {
        name: part.get_delta_weight("default").detach()
        for name, part in tuned.get_base_model().named_modules()
        if hasattr(part, "get_delta_weight")
    }
    before, again = load(path, "nf4"), load(out, "nf4")
    kept = learnt = 0.0
    for name, change in changes.items():
        old, new = (
            dequantize_module_weight(model.get_submodule(name)) for model in (before, again)
        )
        assert change.norm() < 0.05 * old.norm()
        kept += float(((new - old) * change).sum())
        learnt += float(change.square().sum())
    assert 0.7 < kept / learnt < 1.3


def test_a_quantised_reward_model_keeps_its_head_whole(checkpoint):
    model = load_reward_model(checkpoint(), dtype=torch.float32, device="cpu", quantization="nf4")
    assert model.score.weight.dtype == torch.float32
    with torch.no_grad():
        assert model(input_ids=IDS).logits.isfinite().all()


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_moss_is_quantised_too(tmp_path, bits):
    path = write_moss(tmp_path / "moss")
    plain, quantised = load(path), load(path, bits)
    kinds = {type(part).__name__ for part in quantised.transformer.h.modules()}
    assert {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[bits] in kinds
    assert type(quantised.lm_head) is torch.nn.Linear
    error = (logits(quantised) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < error < {"nf4": 0.5, "int8": 0.1}[bits]


@pytest.mark.parametrize("architecture", ["baichuan-13b", "baichuan2-7b", "moss"])
@pytest.mark.parametrize(("number", "bits"), [(4, "nf4"), (8, "int8")])
def test_quantize_is_loading_quantised(checkpoint, tmp_path, architecture, number, bits):
    moss = architecture == "moss"
    path = write_moss(tmp_path / "moss") if moss else checkpoint(architecture)
    loaded, model = load(path, bits), load(path)
    assert model.quantize(number) is model
    exact_products(model)  # as loading leaves it
    assert torch.equal(logits(model), logits(loaded))
    assert model.get_memory_footprint() == loaded.get_memory_footprint()
    assert model.config.quantization_config == loaded.config.quantization_config
    assert not any(part.training for part in model.modules())
    with pytest.raises(ValueError, match="quantised already"):
        model.quantize(number)


def test_the_kernel_for_answers_takes_whole_blocks_alone(checkpoint, monkeypatch):
    """It is switched off where models learn, and where it would stumble over what is left."""
    monkeypatch.setattr("bitsandbytes.functional.has_avx512bf16", lambda: True)
    model = load(checkpoint(), "nf4")
    layers = [part for part in model.modules() if isinstance(part, bitsandbytes.nn.Linear4bit)]
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    layers[0].in_features, layers[1].out_features = 96, 48
    fast_products(model)
    assert [layer.support_avx512bf16_for_cpu for layer in layers] == [
        False,
        False,
        *[True] * (len(layers) - 2),
    ]


@pytest.mark.skipif(
    not bitsandbytes.functional.has_avx512bf16(), reason="the kernel is for AVX512-BF16"
)
def test_the_kernel_for_answers_gives_them(checkpoint):
    model = load(checkpoint(), "nf4")
    exact = logits(model)
    fast_products(model)
    error = (logits(model) - exact).norm() / exact.norm()
    assert 0 < error < 0.05


def test_quantize_refuses_other_bits(checkpoint):
    with pytest.raises(ValueError, match=r"quantize\(3\): .* 4 or 8 bits"):
        load(checkpoint()).quantize(3)


def test_8_bits_say_nothing_at_every_product(checkpoint, caplog):
    logits(load(checkpoint()).quantize(8))
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")]


def test_a_model_in_8_bits_moves_by_either_name(checkpoint, monkeypatch):
    model = load(checkpoint()).quantize(8)
    moved = []
    monkeypatch.setattr(torch.nn.Module, "_apply", lambda self, *_: moved.append(self) or self)
    assert model.cuda() is model and model.to("cpu") is model and moved == [model, model]


def test_a_quantised_model_is_saved_and_loaded_as_it_is(checkpoint, tmp_path):
    """It is talked to like any other, but neither quantised again nor written in another layout."""
    path, packed = checkpoint(), tmp_path / "packed"
    model = load(path).quantize(4)
    exact_products(model)
    save_checkpoint(model, load_tokenizer(path), packed)
    torch.testing.assert_close(logits(load(packed)), logits(model), rtol=1e-4, atol=1e-4)
    assert type(AutoModelForCausalLM.from_pretrained(packed)) is type(model)
    with pytest.raises(ValueError, match="quantised already"):
        load(packed, "nf4")
    with pytest.raises(ValueError, match="quantised weights; export what they come from"):
        export(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
@pytest.mark.parametrize("used", [False, True])
def test_the_scales_of_8_bits_go_where_the_weights_go(checkpoint, used):
    model = load(checkpoint()).quantize(8)
    before = logits(model) if used else None
    layer = model.model.layers[0].self_attn.W_pack
    holder = layer.state if used else layer.weight
    holder.CB = holder.CB.clone()  # as it stays behind on another device
    model._apply(lambda tensor: tensor)
    assert holder.CB.data_ptr() == layer.weight.data_ptr()
    assert holder.SCB.device == layer.weight.device
    if used:
        assert torch.equal(logits(model), before)
