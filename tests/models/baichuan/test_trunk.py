from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import rlhf.models  # noqa: F401
from rlhf.models.baichuan.trunk import BaichuanModel
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
    model(IDS, attention_mask=mask, use_cache=True)  # or rows were moved, and there were no mask
    (given,) = masks
    seen = given if given.dtype == torch.bool else given > torch.finfo(given.dtype).min
    assert seen.any(-1).all()
    # What is real sees itself and the real ones before it, and no padding.
    assert not seen[0, :, 7:, :7].any()
    assert (seen[0, :, 7:, 7:] == torch.ones(13, 13).tril().bool()).all()


PADDED = {
    "left": [(6, 0), (0, 0), (3, 0)],
    "right": [(0, 5), (0, 2), (0, 9)],
    "both": [(4, 7), (9, 2), (5, 5)],
    "nothing": [(0, 0), (0, 0), (0, 0)],
}
"""Columns of padding on the left and on the right of each row."""


def of_sides(sides: list[tuple[int, int]], width: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    columns = torch.arange(width)
    mask = torch.stack([(columns >= left) & (columns < width - right) for left, right in sides])
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 60, mask.shape, generator=generator), mask


@pytest.fixture(params=[1, 8])
def widths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and in multiples as on a GPU."""
    monkeypatch.setattr(BaichuanModel, "width_unit", request.param)


@pytest.mark.usefixtures("widths")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("sides", PADDED)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_moved_to_the_left_are_as_under_a_mask(architecture, sides, attention):
    """States of what is real, and every gradient; with a cache nothing is moved."""
    ids, mask = of_sides(PADDED[sides])
    found = {}
    for moved in (True, False):
        model = tiny_model(architecture)
        model.set_attn_implementation(attention)
        states = model.model(ids, attention_mask=mask, use_cache=not moved).last_hidden_state
        states[mask].square().sum().backward()
        found[moved] = [states[mask].detach(), *(p.grad for p in model.model.parameters())]
    for a, b in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("widths")
@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.parametrize("sides", PADDED)
@torch.no_grad()
def test_the_last_states_of_moved_rows(sides, cuts):
    ids, mask = of_sides(PADDED[sides])
    model = tiny_model("baichuan2-7b").model
    model.cuts_last_block = cuts
    every = model(ids, attention_mask=mask, use_cache=True).last_hidden_state
    for keep in (1, 2, 5, 13, 20):
        last = model(ids, attention_mask=mask, use_cache=False, states_to_keep=keep)
        assert last.last_hidden_state.shape[1] == keep
        real = mask[:, -keep:]
        torch.testing.assert_close(last.last_hidden_state[real], every[:, -keep:][real])


@torch.no_grad()
def test_moved_rows_need_no_mask_and_no_column_that_none_of_them_fills():
    model, given = tiny_model("baichuan2-7b").model, []
    model.layers[0].register_forward_pre_hook(
        lambda layer, args, kwargs: given.append((kwargs["attention_mask"], args[0].shape[1])),
        with_kwargs=True,
    )
    ids, mask = of_sides([(4, 7), (9, 2), (5, 5)])
    model(ids, attention_mask=mask, use_cache=False)
    assert given == [(None, 10)]
    # With its states shown, they are where the tokens are.
    shown = model(ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
    assert [tuple(states.shape[:2]) for states in shown.hidden_states] == [(3, 20)] * 3
    model.aligns_rows = False
    model(ids, attention_mask=mask, use_cache=False)
    assert given.pop()[1] == 20
    model.aligns_rows = True
    mask[0, 8] = False  # a hole
    holed = model(ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert [width for _, width in given] == [10, 20, 20]
    kept = model(ids, attention_mask=mask, use_cache=True).last_hidden_state
    assert torch.equal(holed, kept)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_predicts_the_first_token_of_a_moved_row_does_not_know_it(architecture, chunk):
    """Labels on every real token: with padding on the left its column is read for the first one.

    With a cache that is the state of padding, which knows no token of the row either.
    """
    ids, mask = of_sides([(4, 0), (0, 0)])
    labels, model = ids.masked_fill(~mask, -100), tiny_model(architecture)
    said = {"attention_mask": mask, "labels": labels, "use_cache": False, "loss_chunk": chunk}
    model.eval()

    def gradient(ids: torch.Tensor) -> float:
        states = model.get_input_embeddings()(ids).detach().requires_grad_()
        first = labels.clone()
        first[:, :4], first[:, 5:] = -100, -100  # of row 0 the first real token alone
        model(inputs_embeds=states, **{**said, "labels": first}).loss.backward()
        return states.grad[0].abs().max().item()

    assert gradient(ids) == 0
    assert torch.isfinite(model(ids, **said).loss)


@torch.no_grad()
def test_more_states_than_there_are_columns():
    model, (ids, mask) = tiny_model("baichuan2-7b"), of_sides([(4, 3), (2, 5)])
    given = {"attention_mask": mask, "use_cache": False}
    every = model(ids, **given).logits
    assert torch.equal(model(ids, **given, logits_to_keep=100).logits, every)


@torch.no_grad()
def test_rows_that_see_what_follows_stay_under_their_mask():
    model, given = tiny_model("baichuan2-7b").model, []
    model.layers[0].register_forward_pre_hook(
        lambda layer, args, kwargs: given.append(args[0].shape[1]), with_kwargs=True
    )
    ids, mask = of_sides([(4, 7), (9, 2)])
    model(ids, attention_mask=mask, use_cache=False, is_causal=False)
    assert given == [20]


@torch.no_grad()
def test_positions_move_with_their_tokens():
    model = tiny_model("baichuan2-7b").model
    ids, mask = of_sides([(4, 7), (9, 2)])
    places = torch.stack([torch.arange(20) * 2, torch.arange(20) * 3])
    moved, kept = (
        model(ids, attention_mask=mask, position_ids=places, use_cache=cache).last_hidden_state
        for cache in (False, True)
    )
    torch.testing.assert_close(moved[mask], kept[mask])
    ordinary = model(ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert not torch.allclose(moved[mask], ordinary[mask], atol=1e-3)


@torch.no_grad()
def test_alibi_is_never_left_out_of_rows_laid_end_to_end() -> None:
    """The kernel that keeps them apart has no bias. Positions that start again keep them apart."""
    model, ids = tiny_model("baichuan-13b"), IDS[:1]
    with pytest.raises(ValueError, match="no ALiBi: pass position_ids") as error:
        boundaries = torch.tensor([0, 8, 20], dtype=torch.int32)
        model(ids, cu_seq_lens_q=boundaries, max_length_q=12)
    assert "\n" not in str(error.value)
    places = torch.cat([torch.arange(8), torch.arange(12)])[None]
    packed = model(ids, position_ids=places).logits
    alone = torch.cat([model(ids[:, :8]).logits, model(ids[:, 8:]).logits], dim=1)
    assert torch.allclose(packed, alone, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_decoder_layer_compiles_to_one_graph(architecture: str) -> None:
    """With the mask, the rotation and the bias that the trunk gives it."""
    model = tiny_model(architecture)
    given: dict[str, object] = {}
    hook = model.model.layers[1].register_forward_pre_hook(
        lambda layer, args, kwargs: given.update(kwargs, hidden=args[0]), with_kwargs=True
    )
    model(IDS, attention_mask=(IDS != IDS[1, 3]).long(), use_cache=False)
    hook.remove()
    assert given["attention_mask"] is not None
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


def padded(side: str) -> torch.Tensor | None:
    """A mask of IDS, the first row's first or the second's last six tokens being padding."""
    mask = torch.ones_like(IDS)
    if side == "left":
        mask[0, :6] = 0
    elif side == "right":
        mask[1, -6:] = 0
    return None if side == "none" else mask


@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_states_alone_are_those_among_all(
    architecture: str, attention: str, side: str, checkpointing: bool
) -> None:
    """And so is what every weight learns from them."""
    trunk = tiny_model(architecture).model
    trunk.set_attn_implementation(attention)
    near = {"atol": 2e-5, "rtol": 1e-4}
    if attention == "sdpa":  # the other one's softmax is float32 in any case
        trunk.double()
        near = {"atol": 1e-12, "rtol": 1e-9}
    if checkpointing:
        trunk.gradient_checkpointing_enable({"use_reentrant": False})
        trunk.train()
    mask, found = padded(side), []
    for keep in (9, 0):
        states = trunk(IDS, mask, use_cache=False, states_to_keep=keep).last_hidden_state
        assert states.shape[1] == (keep or IDS.shape[1])
        real = states[:, -9:-1] * (1 if mask is None else mask[:, -9:-1, None])
        gradients = torch.autograd.grad(real.cos().sum(), list(trunk.parameters()))
        found.append([real, *gradients])
    for alone, among in zip(*found, strict=True):
        torch.testing.assert_close(alone, among, **near)


@pytest.mark.parametrize("keep", [1, 6])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_cache_filled_for_the_last_states_is_whole(architecture: str, keep: int) -> None:
    trunk = tiny_model(architecture).double().model
    mask = padded("left")
    whole = trunk(IDS, mask).last_hidden_state
    begun = trunk(IDS[:, :12], mask[:, :12], use_cache=True, states_to_keep=keep)
    rest = trunk(IDS[:, 12:], mask, past_key_values=begun.past_key_values, states_to_keep=5)
    assert torch.allclose(begun.last_hidden_state, whole[:, 12 - keep : 12], atol=1e-10)
    assert torch.allclose(rest.last_hidden_state, whole[:, -5:], atol=1e-10)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@torch.no_grad()
def test_the_last_states_by_flex_attention() -> None:
    trunk = tiny_model("baichuan2-7b").model
    mask = padded("left")
    expected = trunk(IDS, mask).last_hidden_state[:, -5:]
    trunk.set_attn_implementation("flex_attention")
    assert torch.allclose(trunk(IDS, mask, states_to_keep=5).last_hidden_state, expected, atol=1e-4)


@torch.no_grad()
def test_logits_of_the_last_positions_need_no_more_of_the_last_block() -> None:
    """But where losses or what is inside are asked for as well."""
    model, widths = tiny_model("baichuan2-7b"), []
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda mlp, args: widths.append(args[0].shape[1]))
    every = model(IDS).logits
    for keep in (3, slice(-3, None)):
        assert torch.allclose(model(IDS, logits_to_keep=keep).logits, every[:, -3:], atol=1e-4)
    part = model(IDS, logits_to_keep=slice(-5, -1)).logits
    assert torch.allclose(part, every[:, -5:-1], atol=1e-4)
    assert widths == [20, 20, 20, 3, 20, 3, 20, 5]
    widths.clear()
    for keep in (slice(4, 9), torch.arange(4, 9)):
        assert torch.equal(model(IDS, logits_to_keep=keep).logits, every[:, 4:9])
    states = model(IDS, logits_to_keep=3, output_hidden_states=True).hidden_states
    assert [each.shape[1] for each in states] == [20, 20, 20]
    model(IDS, logits_to_keep=3, labels=IDS, loss_chunk=4)
    assert widths == [20] * 8
