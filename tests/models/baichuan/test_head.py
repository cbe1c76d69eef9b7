from __future__ import annotations

import torch
from torch.nn import functional as F

from rlhf.models.baichuan.head import NormHead
from tests.checkpoints import tiny_model


def reference(head: NormHead, hidden: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, F.normalize(head.weight))


def test_is_the_normalised_product_and_leaves_the_weight_alone() -> None:
    torch.manual_seed(0)
    head, hidden = NormHead(8, 16), torch.randn(2, 3, 8)
    before = head.weight.detach().clone()
    for mode in (True, False):
        head.train(mode)
        for _ in range(2):
            assert torch.allclose(head(hidden), reference(head, hidden), atol=1e-6)
    assert torch.equal(head.weight, before)
    assert torch.allclose(hidden @ head.normalised_weight().T, head(hidden), atol=1e-6)


def test_gradient_goes_through_the_lengths() -> None:
    torch.manual_seed(0)
    head, hidden = NormHead(8, 16), torch.randn(4, 8)
    coefficients = torch.randn(4, 16)
    (head(hidden) * coefficients).sum().backward()
    ours = head.weight.grad.clone()
    head.weight.grad = None
    (reference(head, hidden) * coefficients).sum().backward()
    assert torch.allclose(ours, head.weight.grad, atol=1e-6)


@torch.no_grad()
def test_a_changed_weight_is_seen_in_evaluation() -> None:
    head, hidden = NormHead(8, 16).eval(), torch.randn(4, 8)
    head(hidden)
    head.weight[0] *= 5
    head.weight[1] += 1
    assert torch.allclose(head(hidden), reference(head, hidden), atol=1e-6)
    head.weight.data[2] += 1  # leaves no version behind, as some optimisers do
    head.train().eval()
    assert torch.allclose(head(hidden), reference(head, hidden), atol=1e-6)
    head.weight = torch.nn.Parameter(torch.randn(16, 8))
    assert torch.allclose(head(hidden), reference(head, hidden), atol=1e-6)


def test_lengths_kept_under_inference_mode_serve_a_later_backward() -> None:
    head, hidden = NormHead(8, 16).requires_grad_(False).eval(), torch.randn(4, 8)
    with torch.inference_mode():
        head(hidden)
    hidden.requires_grad_(True)
    head(hidden).sum().backward()
    assert torch.isfinite(hidden.grad).all()


def test_autocast_keeps_lengths_in_float32() -> None:
    torch.manual_seed(0)
    head, hidden = NormHead(64, 32), torch.randn(4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(hidden)
    assert logits.dtype == torch.bfloat16
    assert torch.allclose(logits.float(), reference(head, hidden), atol=0.05)


def test_resizing_the_vocabulary_keeps_the_kind_of_head() -> None:
    ids = torch.arange(3, 20)[None]
    for architecture in ("baichuan-7b", "baichuan2-7b"):
        model = tiny_model(architecture)
        kind, before = type(model.lm_head), model(ids).logits
        model.resize_token_embeddings(520, mean_resizing=False)
        assert type(model.lm_head) is kind
        assert torch.allclose(model(ids).logits[..., :512], before, atol=1e-5)
        assert model.config.vocab_size == 520
