from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlhf.models.checkpoint import check_checkpoint
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from tests.checkpoints import ARCHITECTURES, edit, tiny_model

CPU = {"dtype": torch.float32, "device": "cpu"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_loads_an_official_directory(checkpoint: Callable[..., Path], architecture: str) -> None:
    path = checkpoint(architecture)
    check_checkpoint(path, architecture)
    model, ids = load_causal_lm(path, **CPU), torch.arange(3, 20)[None]
    assert not model.training
    assert torch.allclose(model(ids).logits, tiny_model(architecture)(ids).logits, atol=1e-5)
    assert load_tokenizer(path).eos_token_id == 2
    assert load_reward_model(path, **CPU)(ids).logits.shape == (1, 1)


def test_a_gpu_takes_tensors_from_the_file_itself(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process holds the model in the host's memory first, where N of them would hold N."""
    load, asked = AutoModelForCausalLM.from_pretrained, {}

    def from_pretrained(*args: object, device_map: str | None = None, **options: object) -> object:
        asked["device_map"] = device_map
        return load(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    path = checkpoint("baichuan2-7b")
    load_causal_lm(path, dtype=torch.float32, device="cuda:1")
    assert asked == {"device_map": "cuda:1"}
    load_causal_lm(path, **CPU)
    assert asked == {"device_map": None}


@pytest.mark.parametrize("wrong", ["missing", "shape", "left over"])
def test_nothing_is_half_loaded(checkpoint: Callable[..., Path], wrong: str) -> None:
    path = checkpoint()
    weights = load_file(path / "model.safetensors")
    key = "model.layers.1.self_attn.W_pack.weight"
    tensor = weights.pop(key)
    if wrong == "shape":
        weights[key] = tensor[:-1].clone()
    elif wrong == "left over":
        weights |= {key: tensor, key.replace("layers.1", "layers.2"): tensor.clone()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 tensors missing, left over .* shape .*W_pack"):
        load_causal_lm(path, **CPU)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.model", b"junk", "damaged"),
        ("tokenizer_config.json", b"{", "damaged"),
        ("config.json", {"vocab_size": 500}, "512 tokens, its embedding 500 rows"),
        ("config.json", {"vocab_size": 1024}, "512 tokens, its embedding 1024 rows"),
    ],
)
def test_one_line_for_a_wrong_tokenizer(
    checkpoint: Callable[..., Path], file: str, content: object, said: str
) -> None:
    path = checkpoint()
    if isinstance(content, bytes):
        (path / file).write_bytes(content)
    else:
        edit(path, **content)
    with pytest.raises(ValueError, match=said) as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_no_code_runs_from_a_bin_file(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path, marker = checkpoint("baichuan-7b"), tmp_path / "has run"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (marker,)

    torch.save({"model.norm.weight": Code()}, path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="more than tensors"):
        load_causal_lm(path, **CPU)
    assert not marker.exists()


def test_a_bin_file_that_is_damaged_inside(checkpoint: Callable[..., Path]) -> None:
    """Its end, which says what is in it, is whole."""
    path = checkpoint("baichuan-7b")
    for start, said in ((100, r"a \.bin file is damaged; copy"), (0, "truncated or damaged")):
        with (path / "pytorch_model.bin").open("r+b") as file:
            file.seek(start)
            file.write(bytes(4000))
        with pytest.raises(ValueError, match=said) as caught:
            load_causal_lm(path, **CPU)
        assert "\n" not in str(caught.value)


def test_quantised_loading_names_its_extra(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"baichuan-rlhf\[gpu\]"):
        load_causal_lm(checkpoint(), quantization="nf4", **CPU)


def test_a_loaded_model_survives_being_written_over(checkpoint: Callable[..., Path]) -> None:
    path, ids = checkpoint(), torch.arange(3, 20)[None]
    model = load_causal_lm(path, **CPU)
    before = model(ids).logits
    weights = path / "model.safetensors"
    with weights.open("r+b") as file:
        file.write(b"\x00" * weights.stat().st_size)
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("loader", [load_causal_lm, AutoModelForCausalLM.from_pretrained])
def test_an_official_4_bit_directory_is_refused(
    checkpoint: Callable[..., Path], loader: Callable[..., object]
) -> None:
    """As Baichuan2-7B-Chat-4bits says it."""
    path = checkpoint()
    edit(path, quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    with pytest.raises(ValueError, match=r"such as Baichuan2-7B-Chat, .* --load-in 4bit") as caught:
        loader(path, **(CPU if loader is load_causal_lm else {}))
    assert "\n" not in str(caught.value)
