from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM
from tests.checkpoints import ARCHITECTURES, tiny_model
from tests.models.moss import conftest as moss

CHUNKS = (1, 5, 64)
MODELS = (*ARCHITECTURES, "moss-moon-003")


def model_of(architecture: str) -> PreTrainedModel:
    if architecture == "moss-moon-003":
        return moss.tiny_model(300)
    return tiny_model(architecture)


def batch() -> dict[str, torch.Tensor]:
    """Two rows, the second padded on the right; the first third of each is a question."""
    ids = torch.arange(3, 43).view(2, 20)
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :7] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_and_gradients(model: Any, **arguments: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = model(**arguments).loss
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return loss, list(torch.autograd.grad(loss, learning))


def assert_same(model: Any, **arguments: Any) -> None:
    expected, gradients = loss_and_gradients(model, **arguments)
    for chunk in CHUNKS:
        loss, chunked = loss_and_gradients(model, loss_chunk=chunk, **arguments)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
        for one, other in zip(chunked, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 2e-4, 0.01])
@pytest.mark.parametrize("architecture", MODELS)
def test_chunks_give_the_loss_max_z_and_gradients(architecture: str, weight: float) -> None:
    model = model_of(architecture)
    model.config.z_loss_weight = weight
    assert_same(model, **batch())


@pytest.mark.parametrize("items", [57, torch.tensor(57)])
def test_chunks_of_a_part_of_an_accumulated_batch(items: Any) -> None:
    model = tiny_model("baichuan2-7b")
    model.config.z_loss_weight = 0.01
    assert_same(model, **batch(), num_items_in_batch=items)


def test_chunks_of_packed_rows() -> None:
    model, arguments = tiny_model("baichuan2-7b"), batch()
    model.config.z_loss_weight = 0.01
    places = torch.cat([torch.arange(8), torch.arange(12)])
    del arguments["attention_mask"]
    assert_same(model, **arguments, position_ids=places.expand(2, -1))


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [("baichuan2-7b", "all-linear"), ("baichuan-7b", ("W_pack", "lm_head"))],
)
def test_chunks_under_adapters(architecture: str, targets: Any) -> None:
    model = tiny_model(architecture)
    model.config.z_loss_weight = 0.01
    tuned = add_lora(model, TuningSection(method="lora", r=2, targets=targets), "causal")
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert_same(tuned, **batch())


def test_a_part_without_labels_adds_nothing() -> None:
    model, arguments = tiny_model("baichuan2-7b"), batch()
    arguments["labels"] = torch.full_like(arguments["labels"], -100)
    for weight in (0.0, 0.01):
        model.config.z_loss_weight = weight
        loss = model(**arguments, loss_chunk=4, num_items_in_batch=9).loss
        loss.backward()
        assert loss.item() == 0


def test_the_weight_of_max_z_can_be_given() -> None:
    model, arguments = tiny_model("baichuan2-7b"), batch()
    plain = model(**arguments).loss
    model.config.z_loss_weight = 0.01
    for chunk in (None, 4):
        torch.testing.assert_close(
            model(**arguments, z_loss_weight=0.0, loss_chunk=chunk).loss, plain
        )
        assert model(**arguments, loss_chunk=chunk).loss > plain


@pytest.mark.parametrize("weight", [0.0, 0.01])
def test_all_logits_never_exist(weight: float) -> None:
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    vocabulary, chunk = 5000, 6
    config = BaichuanConfig(
        vocab_size=vocabulary,
        hidden_size=4,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        z_loss_weight=weight,
    )
    model, arguments = BaichuanForCausalLM(config), batch()
    with Sizes():
        output = model(**arguments, loss_chunk=chunk)
        output.loss.backward()
    assert output.logits is None
    assert largest == vocabulary * chunk  # more than the weight's vocabulary x 4
