from __future__ import annotations

import pytest
import torch

from rlhf.ops.adapters import add_adapter, gated_adapters


def on(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("the kernel runs on a GPU")
    return torch.device(device)


def test_a_share_by_hand() -> None:
    # two columns of the product, then what a first matrix of rank 1 makes
    both = torch.tensor([[1.0, 2.0, 10.0]])
    second = torch.tensor([[0.1], [0.2]])
    assert torch.equal(add_adapter(both, second, 0.5), torch.tensor([[1.5, 3.0]]))
    beside = torch.tensor([[100.0, 200.0]])
    assert torch.equal(add_adapter(both, second, 0.5, beside), torch.tensor([[101.5, 203.0]]))
    assert gated_adapters(
        torch.tensor([[0.0, 3.0, 1.0, 10.0]]),
        (torch.tensor([[2.0]]), torch.tensor([[0.1]])),
        (1.0, 2.0),
    ).item() == pytest.approx(2 / (1 + 2.718281828**-2) * 5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("ranks", [(8, 8), (16, 24), (64, 8)])
@pytest.mark.parametrize("rows", [1, 16, 70])
def test_shares_of_any_size(device: str, ranks: tuple[int, int], rows: int) -> None:
    made, place = 100, on(device)
    seconds = tuple(torch.randn(made, rank, device=place) for rank in ranks)
    scales = (0.5, 2.0)
    first, other = torch.randn(2, rows, made, device=place)
    lows = tuple(torch.randn(rows, rank, device=place) for rank in ranks)
    parts = zip(lows, seconds, scales, strict=True)
    shares = [low @ second.t() * scale for low, second, scale in parts]
    found = add_adapter(torch.cat([first, lows[0]], dim=1), seconds[0], scales[0], other)
    torch.testing.assert_close(found, first + shares[0] + other, rtol=1e-4, atol=1e-4)
    found = gated_adapters(torch.cat([first, other, *lows], dim=1), seconds, scales)
    expected = torch.nn.functional.silu(first + shares[0]) * (other + shares[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
