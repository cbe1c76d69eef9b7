from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import rlhf.models  # noqa: F401
from tests.checkpoints import ARCHITECTURES, tiny_model

IDS = torch.arange(3, 43).view(2, 20)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_of_padding_spoils_nothing(architecture: str, attention: str) -> None:
    """Neither logits nor gradients are NaN, and the row beside it is as it would be alone."""
    model = tiny_model(architecture)
    model.set_attn_implementation(attention)
    mask = torch.ones_like(IDS)
    mask[0] = 0
    output = model(IDS, attention_mask=mask, labels=IDS)
    output.loss.backward()
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())
    assert torch.allclose(output.logits[1], model(IDS[1:]).logits[0], atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_padding_on_the_left_attends_to_something(architecture: str) -> None:
    """A query that sees nothing gets a gradient of NaN from PyTorch's kernel for GPUs."""
    model = tiny_model(architecture)
    masks = []
    model.model.layers[0].register_forward_pre_hook(
        lambda layer, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    model(IDS, attention_mask=mask, use_cache=False)
    (given,) = masks
    seen = given if given.dtype == torch.bool else given > torch.finfo(given.dtype).min
    assert seen.any(-1).all()
    # What is real sees itself and the real ones before it, and no padding.
    assert not seen[0, :, 7:, :7].any()
    assert (seen[0, :, 7:, 7:] == torch.ones(13, 13).tril().bool()).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_decoder_layer_compiles_to_one_graph(architecture: str) -> None:
    """With the mask, the rotation and the bias that the trunk gives it."""
    model = tiny_model(architecture)
    given: dict[str, object] = {}
    hook = model.model.layers[1].register_forward_pre_hook(
        lambda layer, args, kwargs: given.update(kwargs, hidden=args[0]), with_kwargs=True
    )
    model(IDS, attention_mask=(IDS != IDS[1, 0]).long(), use_cache=False)
    hook.remove()
    hidden = given.pop("hidden")
    layer = model.model.layers[1]
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(hidden, **given), layer(hidden, **given))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_the_whole_model_compiles_to_one_graph(architecture: str) -> None:
    model = tiny_model(architecture)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    mask = torch.ones_like(IDS)
    logits = compiled(IDS, attention_mask=mask, use_cache=False).logits
    assert torch.allclose(logits, model(IDS).logits, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_static_and_dynamic_caches_continue_alike_again_and_again(architecture: str) -> None:
    model = tiny_model(architecture)
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    made = [
        model.generate(
            IDS,
            attention_mask=mask,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            cache_implementation=cache,
            disable_compile=True,
        )
        for cache in (None, "static", None, "static")
    ]
    assert made[0].shape == (2, 32)
    assert all(torch.equal(made[0], other) for other in made[1:])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(architecture: str, reentrant: bool) -> None:
    model = tiny_model(architecture).train()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_alibi_refuses_attention_that_cannot_carry_it(
    checkpoint: Callable[..., Path], attention: str
) -> None:
    """In one line, before anything is loaded, and where the kind is set afterwards."""
    said = f"attention '{attention}' cannot carry this model's ALiBi bias: use 'sdpa'"
    path = checkpoint("baichuan2-13b")
    with pytest.raises(ValueError, match=f"^{said}$"):
        AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention)
    model = tiny_model("baichuan2-13b")
    model.config._attn_implementation = attention
    with pytest.raises(ValueError, match=f"^{said}$"):
        model(IDS)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-7b"])
@torch.no_grad()
def test_rope_takes_flex_attention(architecture: str) -> None:
    """Left-padded; run eagerly, since compiling the kernel takes minutes on a slow machine."""
    model, mask = tiny_model(architecture), torch.ones_like(IDS)
    mask[1, :4] = 0
    expected = model(IDS, attention_mask=mask).logits
    model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"):
        logits = model(IDS, attention_mask=mask).logits
    assert torch.isfinite(logits).all()
    assert (logits - expected)[mask.bool()].abs().max() < 1e-4
