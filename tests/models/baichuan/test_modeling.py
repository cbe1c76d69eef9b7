from __future__ import annotations

import math

import pytest
import torch

from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from rlhf.models.max_z import max_z
from tests.checkpoints import ARCHITECTURES, tiny_model


def reward_model(architecture: str) -> BaichuanForSequenceClassification:
    torch.manual_seed(1)
    return BaichuanForSequenceClassification(tiny_model(architecture).config).eval()


def test_max_z_by_hand() -> None:
    """The last position predicts nothing: 9 does not count."""
    logits = torch.tensor([[[1.0, 3.0], [-2.0, -5.0], [9.0, 0.0]]])
    assert max_z(logits).item() == pytest.approx((9 + 4) / 2)
    mask = torch.tensor([[0, 1, 1]])
    assert max_z(logits, mask).item() == pytest.approx(4)


def test_max_z_joins_the_loss_by_its_weight() -> None:
    model, ids = tiny_model("baichuan2-7b"), torch.arange(3, 23)[None]
    plain = model(ids, labels=ids)
    model.config.z_loss_weight = 0.01
    weighted = model(ids, labels=ids).loss
    assert (weighted - plain.loss).item() == pytest.approx(0.01 * max_z(plain.logits).item())


def test_accumulated_batches_weigh_max_z_once() -> None:
    model, ids = tiny_model("baichuan2-7b"), torch.arange(3, 43).view(2, 20)
    model.config.z_loss_weight = 0.01
    whole = model(ids, labels=ids).loss
    items = torch.tensor(38)
    parts = [model(row[None], labels=row[None], num_items_in_batch=items).loss for row in ids]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_scores_are_read_at_the_last_real_token(architecture: str) -> None:
    """Padding on either side, and a padding id inside and at the end of the text."""
    model = reward_model(architecture)
    text = torch.tensor([[7, 9, 0, 11, 0]])
    alone = model(text).logits
    for left, right in ((0, 3), (4, 0), (2, 2)):
        ids = torch.nn.functional.pad(text, (left, right), value=0)
        mask = torch.nn.functional.pad(torch.ones_like(text), (left, right))
        assert torch.allclose(model(ids, attention_mask=mask).logits, alone, atol=1e-5)
        scores = model.token_scores(ids, mask)
        assert scores.shape == ids.shape
        assert torch.allclose(scores[:, left + 4], alone[:, 0], atol=1e-5)
    assert alone.shape == (1, 1)


def test_loss_of_a_regression() -> None:
    model, ids = reward_model("baichuan2-7b"), torch.tensor([[7, 9]])
    output = model(ids, labels=torch.tensor([[1.0]]))
    assert output.loss.item() == pytest.approx((output.logits.item() - 1) ** 2, rel=1e-5)


@torch.no_grad()
def test_bfloat16_stays_near_float32() -> None:
    for architecture in ARCHITECTURES:
        model, ids = tiny_model(architecture), torch.arange(3, 60)[None]
        exact = model(ids).logits
        rough = model.bfloat16()(ids).logits.float()
        scale = exact.abs().max().item()
        assert (rough - exact).abs().max().item() < 0.1 * scale
        assert math.isfinite(scale)


def test_head_weight_gives_the_logits() -> None:
    for architecture in ("baichuan-7b", "baichuan2-7b"):
        model, ids = tiny_model(architecture), torch.arange(3, 30)[None]
        hidden = model.model(ids).last_hidden_state
        assert torch.allclose(hidden @ model.head_weight().T, model(ids).logits, atol=1e-4)
