"""Against what the official modelling code computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

import rlhf.models  # noqa: F401
from rlhf.models.baichuan.modeling import BaichuanForCausalLM
from rlhf.models.max_z import max_z

ATTENTION = ("eager", "sdpa")
TOLERANCE = 1e-4


def load(path: Path, attention: str = "sdpa") -> BaichuanForCausalLM:
    return AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention).eval()


def pad_left(ids: torch.Tensor, amount: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows, length = ids.shape
    padded = torch.cat([ids.new_zeros(rows, amount), ids], dim=1)
    mask = torch.cat([ids.new_zeros(rows, amount), ids.new_ones(rows, length)], dim=1)
    return padded, mask


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_logits_loss_and_max_z(golden: Path, attention: str) -> None:
    expected = load_file(golden / "expected.safetensors")
    output = load(golden, attention)(expected["input_ids"], labels=expected["labels"])
    assert (output.logits - expected["logits"]).abs().max() < TOLERANCE
    assert abs(output.loss - expected["loss"]).item() < TOLERANCE
    assert abs(max_z(output.logits) - expected["max_z"]).item() < TOLERANCE


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_left_padding_changes_nothing_and_gives_no_nan(golden: Path, attention: str) -> None:
    expected = load_file(golden / "expected.safetensors")
    ids, mask = pad_left(expected["input_ids"], 7)
    logits = load(golden, attention)(ids, attention_mask=mask).logits
    assert torch.isfinite(logits).all()
    assert (logits[:, 7:] - expected["logits"]).abs().max() < TOLERANCE


def test_left_padding_changes_no_gradient(golden: Path) -> None:
    expected = load_file(golden / "expected.safetensors")
    model = load(golden).train()
    grads = []
    for amount in (0, 7):
        ids, mask = pad_left(expected["input_ids"], amount)
        labels = torch.nn.functional.pad(expected["labels"], (amount, 0), value=-100)
        model.zero_grad()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
        grads.append(model.model.layers[0].self_attn.W_pack.weight.grad.clone())
    assert torch.isfinite(grads[1]).all()
    assert (grads[0] - grads[1]).abs().max() < TOLERANCE


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("padding", [0, 5])
@torch.no_grad()
def test_token_by_token(golden: Path, attention: str, padding: int) -> None:
    expected = load_file(golden / "expected.safetensors")
    ids, mask = pad_left(expected["input_ids"], padding)
    model, cache, steps = load(golden, attention), DynamicCache(), []
    start = padding + 1
    for end in range(start, ids.shape[1] + 1):
        begin = 0 if end == start else end - 1
        output = model(ids[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache)
        steps.append(output.logits[:, -1])
    assert (torch.stack(steps, dim=1) - expected["logits"]).abs().max() < TOLERANCE


@torch.no_grad()
def test_static_cache(golden: Path) -> None:
    expected = load_file(golden / "expected.safetensors")
    model, ids = load(golden), expected["input_ids"]
    cache = StaticCache(config=model.config, max_cache_len=64)
    first = model(ids[:, :20], past_key_values=cache).logits
    rest = [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(20, 48)]
    logits = torch.cat([first, *rest], dim=1)
    assert (logits - expected["logits"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("cache", [None, "static"])
def test_greedy_tokens_twice_in_one_process(golden: Path, cache: str | None) -> None:
    expected = load_file(golden / "expected.safetensors")
    model = load(golden)
    prompt = expected["input_ids"][:, :16]
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    for amount in (0, 6):
        ids, mask = pad_left(prompt, amount)
        made = model.generate(
            ids, attention_mask=mask, cache_implementation=cache, disable_compile=True, **options
        )
        assert torch.equal(made[:, amount:], expected["greedy_ids"])


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_packed_sequences_are_as_separate_ones(golden: Path, attention: str) -> None:
    """Only position ids that start again mark the borders, also where a cache is made."""
    ids = load_file(golden / "expected.safetensors")["input_ids"][:1]
    model = load(golden, attention)
    cuts = [0, 13, 14, 30, 48]
    places = torch.cat([torch.arange(b - a) for a, b in zip(cuts, cuts[1:], strict=False)])[None]
    separate = torch.cat(
        [model(ids[:, a:b]).logits for a, b in zip(cuts, cuts[1:], strict=False)], dim=1
    )
    for use_cache in (True, False):
        packed = model(ids, position_ids=places, use_cache=use_cache).logits
        assert (packed - separate).abs().max() < TOLERANCE
    joined = model(ids).logits
    assert (joined - separate).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_logits_to_keep(golden: Path) -> None:
    expected = load_file(golden / "expected.safetensors")
    model = load(golden)
    last = model(expected["input_ids"], logits_to_keep=3).logits
    chosen = model(expected["input_ids"], logits_to_keep=torch.tensor([4, 9])).logits
    assert (last - expected["logits"][:, -3:]).abs().max() < TOLERANCE
    assert (chosen - expected["logits"][:, [4, 9]]).abs().max() < TOLERANCE


@pytest.mark.parametrize("shard", ["50GB", "200KB"])
@torch.no_grad()
def test_saved_and_loaded_again(golden: Path, tmp_path: Path, shard: str) -> None:
    expected = load_file(golden / "expected.safetensors")
    load(golden).save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "200KB")
    logits = load(tmp_path)(expected["input_ids"]).logits
    assert (logits - expected["logits"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("shards", [1, 3])
@torch.no_grad()
def test_as_bin_files(golden: Path, tmp_path: Path, shards: int) -> None:
    """The layout of the older official checkpoints, with buffers that are to be ignored."""
    expected, model = load_file(golden / "expected.safetensors"), load(golden)
    weights = model.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    names, index = sorted(weights), {}
    for number in range(shards):
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{number}-of-{shards}.bin"
        part = {name: weights[name] for name in names[number::shards]}
        torch.save(part, tmp_path / file)
        index |= dict.fromkeys(part, file)
    if shards > 1:
        described = {"metadata": {}, "weight_map": index}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(described))
    (tmp_path / "config.json").write_bytes((golden / "config.json").read_bytes())
    ids, mask = pad_left(expected["input_ids"], 3)
    logits = load(tmp_path)(ids, attention_mask=mask).logits[:, 3:]
    assert (logits - expected["logits"]).abs().max() < TOLERANCE
