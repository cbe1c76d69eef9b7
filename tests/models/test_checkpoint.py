from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.models.checkpoint import check_checkpoint, checkpoint_hash
from rlhf.models.load import load_causal_lm
from tests.checkpoints import edit

CPU = {"dtype": torch.float32, "device": "cpu"}


def damage(path: Path, how: str) -> None:
    weights = path / "model.safetensors"
    if how == "gone":
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    elif how == "no config":
        (path / "config.json").unlink()
    elif how == "broken config":
        (path / "config.json").write_text('{"model_type": ')
    elif how == "another family":
        edit(path, model_type="llama")
    elif how == "a word for a number":
        edit(path, hidden_size="64")
    elif how == "no such type":
        edit(path, torch_dtype="int9")
    elif how == "heads do not divide":
        edit(path, num_attention_heads=7)
    elif how == "no heads":
        edit(path, num_attention_heads=0)
    elif how == "packed by others":
        edit(path, quantization_config={"quant_method": "gptq", "bits": 4})
    elif how == "packed by nobody":
        edit(path, quantization_config=4)
    elif how == "half a chat format":
        edit(path, chat_turns={"opening": "<s>", "answer": "</s>"})
    elif how == "another chat format":
        parts = {"opening": "", "answer": "<a>", "question": "</s>", "closing": "x"}
        edit(path, chat_turns=parts)
    elif how == "no such activation":
        edit(path, hidden_act="gelu_nwe")
    elif how == "broken generation config":
        (path / "generation_config.json").write_text('{"top_k": ')
    elif how == "no new tokens":
        (path / "generation_config.json").write_text('{"max_new_tokens": -5}')
    elif how == "no weights":
        weights.unlink()
    elif how == "no tokenizer":
        (path / "tokenizer.model").unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no header":
        weights.write_bytes(b"\xff" * 64)
    elif how == "truncated bin":
        torch.save(load_file(weights), path / "pytorch_model.bin")
        weights.unlink()
        file = path / "pytorch_model.bin"
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "missing shard":
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        weights.rename(path / "model-1.safetensors")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("gone", "no such directory"),
        ("no config", "no config.json"),
        ("broken config", "not valid JSON"),
        ("another family", "not a Baichuan or MOSS checkpoint"),
        ("a word for a number", "'hidden_size' expected int"),
        ("no such type", "has no attribute 'int9'"),
        ("heads do not divide", "not a multiple of the number of attention heads"),
        ("no heads", "config.json: num_attention_heads is 0"),
        ("packed by others", "weights quantised by 'gptq'.*load the plain checkpoint"),
        ("packed by nobody", "weights quantised by 4"),
        ("half a chat format", "chat_turns is not.*question"),
        ("another chat format", "chat_turns is not.*closing"),
        ("no such activation", "no activation 'gelu_nwe'"),
        ("broken generation config", "generation_config.json: not valid JSON"),
        ("no new tokens", "generation_config.json: .*must be greater than 0, but is -5; correct"),
        ("no weights", "no model.safetensors or pytorch_model.bin"),
        ("no tokenizer", "tokenizer.model missing"),
        ("truncated", "truncated"),
        ("no header", "truncated"),
        ("truncated bin", "truncated"),
        ("missing shard", "model-2.safetensors missing"),
    ],
)
def test_one_line_for_a_bad_directory(checkpoint: Callable[..., Path], how: str, said: str) -> None:
    path = checkpoint()
    damage(path, how)
    for check in (check_checkpoint, lambda p: load_causal_lm(p, **CPU)):
        with pytest.raises(ValueError, match=said) as caught:
            check(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_another_architecture(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="this is a baichuan2-13b checkpoint, not baichuan2-7b"):
        check_checkpoint(checkpoint("baichuan2-13b"), "baichuan2-7b")


def test_hash_follows_the_content(checkpoint: Callable[..., Path]) -> None:
    one, same, other = checkpoint(name="a"), checkpoint(name="b"), checkpoint(name="c", seed=1)
    assert checkpoint_hash(one) == checkpoint_hash(same) != checkpoint_hash(other)
    before = checkpoint_hash(one)
    (one / "tokenizer_config.json").write_text("{}")
    assert checkpoint_hash(one) == before
    edit(one, rms_norm_eps=1e-5)
    assert checkpoint_hash(one) != before
