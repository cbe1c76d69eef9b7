from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import rlhf.models  # noqa: F401
from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.compiled import RECOMPILE_LIMIT, compile_blocks, compile_training
from tests.checkpoints import tiny_model


@pytest.fixture
def compiled(monkeypatch) -> Iterator[list[nn.Module]]:
    """The modules that were asked to compile themselves, which takes minutes on a CPU."""
    found: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, dynamic: found.append(self))
    with torch._dynamo.config.patch(recompile_limit=8):
        yield found


@pytest.mark.parametrize("adapted", [False, True])
def test_the_parts_of_every_block_but_not_its_attention(compiled, adapted):
    model = tiny_model("baichuan2-7b")
    trunk = model.model
    whole = add_lora(model, TuningSection(method="lora"), "causal") if adapted else model
    compile_blocks(whole)
    expected = [
        part
        for layer in trunk.layers
        for part in (
            layer.self_attn.W_pack,
            layer.self_attn.o_proj,
            layer.mlp,
            layer.input_layernorm,
            layer.post_attention_layernorm,
        )
    ]
    assert set(map(id, compiled)) == set(map(id, expected)) and len(compiled) == len(expected)
    assert torch._dynamo.config.recompile_limit == RECOMPILE_LIMIT


def test_a_block_of_another_make(compiled):
    from rlhf.models.moss.configuration import MossConfig
    from rlhf.models.moss.modeling import MossForSequenceClassification

    ids = {"bos_token_id": 1, "eos_token_id": 2}
    config = MossConfig(vocab_size=64, n_embd=16, n_layer=2, n_head=2, rotary_dim=4, **ids)
    model = MossForSequenceClassification(config)
    compile_blocks(model)
    for block in model.transformer.h:
        assert {id(block.attn.qkv_proj), id(block.attn.out_proj), id(block.mlp)} <= set(
            map(id, compiled)
        )
        assert id(block.attn) not in set(map(id, compiled))


@pytest.mark.parametrize("adapted", [False, True])
def test_blocks_whole_and_the_loss_for_training(compiled, adapted):
    model = tiny_model("baichuan2-7b")
    whole = add_lora(model, TuningSection(method="lora"), "causal") if adapted else model
    assert not model.compiled_loss
    compile_training(whole)
    assert list(map(id, compiled)) == list(map(id, model.model.layers))
    assert model.compiled_loss
