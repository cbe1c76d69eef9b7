from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod

import pytest
import torch
import torch._functorch.config
from torch import distributed, fx, nn

import rlhf.models  # noqa: F401
from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.compiled import RECOMPILE_LIMIT, SHALLOW, compile_blocks, compile_training
from tests.checkpoints import tiny_model


@pytest.fixture
def compiled(monkeypatch) -> Iterator[list[nn.Module]]:
    """The modules that were asked to compile themselves, which takes minutes on a CPU."""
    found: list[nn.Module] = []

    def compile(self: nn.Module, *, dynamic: bool, options: dict[str, bool]) -> None:
        # Where lengths vary it is of no use, and torch 2.11 fails in it on some of PPO's.
        assert dynamic and options == {"triton.coalesce_tiling_analysis": False}
        found.append(self)

    monkeypatch.setattr(nn.Module, "compile", compile)
    with settings_kept():
        yield found


@contextmanager
def settings_kept() -> Iterator[None]:
    """What compiling sets for the whole process is as it was, afterwards."""
    budget = torch._functorch.config.patch(activation_memory_budget=1.0)
    with torch._dynamo.config.patch(recompile_limit=8, optimize_ddp=True), budget:
        yield


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


@pytest.mark.parametrize("layers", [SHALLOW, SHALLOW + 1])
def test_the_last_block_of_a_deep_trunk_has_no_graph_of_its_own(compiled, layers):
    """It gives the same states, and computes the others too."""
    model = tiny_model("baichuan2-7b", num_hidden_layers=layers)
    ids, widths = torch.arange(5, 17)[None], []
    expected = model(ids, use_cache=False, logits_to_keep=4).logits
    compile_training(model)
    model.model.layers[-1].mlp.register_forward_pre_hook(
        lambda mlp, args: widths.append(args[0].shape[1])
    )
    told: list[int] = []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(
            lambda _, args, named, index=index: told.extend([index] * ("states_to_keep" in named)),
            with_kwargs=True,
        )
    torch.testing.assert_close(model(ids, use_cache=False, logits_to_keep=4).logits, expected)
    assert model.model(ids, use_cache=False, states_to_keep=3).last_hidden_state.shape[1] == 3
    assert widths == ([4, 3] if layers == SHALLOW else [12, 12])
    # A block that is told a number, 0 too, has shapes that are sums, on which torch 2.11 fails.
    assert told == ([layers - 1] * 2 if layers == SHALLOW else [])


def test_what_a_budget_does_not_keep_is_computed_again(monkeypatch):
    """The gradients are the same; no C++ is made."""
    monkeypatch.setattr(
        nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager_decomp_partition")
    )
    ids, kept = torch.arange(5, 69)[None], {}

    def found(budget: float | None) -> list[torch.Tensor]:
        model = tiny_model("baichuan2-7b", num_hidden_layers=2)
        if budget is not None:
            compile_training(model, budget)
            model.compiled_loss = False
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(ids, labels=ids, use_cache=False).loss
        kept[budget] = sum(saved.values())
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in model.parameters())]

    plain = found(None)
    with settings_kept():
        for budget in (1.0, 0.7, 0.3):
            for a, b in zip(plain, found(budget), strict=True):
                torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    torch._dynamo.reset()
    assert kept[0.3] < kept[0.7] < kept[1.0] < kept[None]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile makes C++")
@pytest.mark.parametrize("adapted", [False, True])
def test_a_block_in_code_of_its_own_gives_the_same_loss_and_gradients(adapted):
    """As SFT has it; with adapters, and as PPO has the last one, computed where it is read.

    A dozen seconds a kernel, on two cores that have something else to do.
    """
    ids = torch.arange(5, 17)[None]
    read = {"logits_to_keep": 4} if adapted else {"labels": ids}

    def made() -> nn.Module:
        torch.manual_seed(0)  # of the adapters
        model = tiny_model("baichuan2-7b", num_hidden_layers=1)
        return add_lora(model, TuningSection(method="lora"), "causal") if adapted else model

    def found(model: nn.Module) -> list[torch.Tensor]:
        output = model(input_ids=ids, use_cache=False, **read)
        loss = output.logits.square().mean() if adapted else output.loss
        loss.backward()
        learning = (each.grad for each in model.parameters() if each.requires_grad)
        return [loss.detach(), *learning]

    plain = found(made())
    with settings_kept():
        compile_training(model := made())
        torch._dynamo.utils.counters.clear()
        for a, b in zip(plain, found(model), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch._dynamo.reset()


def test_one_graph_serves_all_blocks_of_a_process_among_others(monkeypatch):
    """Their gradients fill more than one of the buckets that processes send."""
    graphs: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, inputs: list[torch.Tensor], **options: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=keep))
    model = tiny_model("baichuan2-7b", hidden_size=256, intermediate_size=512, num_hidden_layers=3)
    megabytes = sum(p.numel() * 4 for p in model.model.layers[0].parameters()) / 2**20
    assert megabytes > 2
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    ids = torch.arange(5, 17)[None]
    with settings_kept():
        try:
            compile_training(model)
            several = nn.parallel.DistributedDataParallel(model)
            several(ids, labels=ids, use_cache=False).loss.backward()
        finally:
            distributed.destroy_process_group()
            torch._dynamo.reset()
    assert len(graphs) == 1
