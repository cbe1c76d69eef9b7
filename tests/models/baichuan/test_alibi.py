from __future__ import annotations

import torch

from rlhf.models.baichuan.alibi import alibi_mask, alibi_slopes


def test_slopes_of_the_13b() -> None:
    slopes = alibi_slopes(40)
    first = torch.tensor([2 ** (-0.25 * (i + 1)) for i in range(32)])
    rest = torch.tensor([2 ** (-0.125 * (2 * k + 1)) for k in range(8)])
    assert torch.allclose(slopes, torch.cat([first, rest]), rtol=1e-6, atol=0)


def test_slopes_of_a_power_of_two() -> None:
    assert torch.equal(alibi_slopes(4), torch.tensor([2**-2, 2**-4, 2**-6, 2**-8]))


def test_bias_by_hand() -> None:
    """Two heads, one query at place 2 of a row of four."""
    bias = alibi_mask(
        None, heads=2, queries=torch.tensor([2]), keys=torch.arange(4), dtype=torch.float32
    )
    lowest = torch.finfo(torch.float32).min
    expected = [[-2 / 16, -1 / 16, 0.0, lowest], [-2 / 256, -1 / 256, 0.0, lowest]]
    assert torch.equal(bias, torch.tensor(expected)[:, None])


def test_a_row_that_sees_nothing_stays_finite_in_every_type() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        blind = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
        additive = torch.full((1, 1, 4, 4), torch.finfo(dtype).min, dtype=dtype)
        for mask in (blind, additive):
            places = torch.arange(4) + 4000
            bias = alibi_mask(mask, heads=5, queries=places, keys=torch.arange(4), dtype=dtype)
            assert bias.dtype == dtype and torch.isfinite(bias).all()


def test_bfloat16_is_exact_where_attention_is() -> None:
    """At place 4,000 the absolute form is off by whole logits; the relative one is not."""
    keys = torch.arange(4000)
    bias = alibi_mask(None, heads=40, queries=keys[-1:], keys=keys, dtype=torch.bfloat16).float()
    exact = alibi_slopes(40)[:, None] * (keys - 3999)
    assert (bias[:, 0, -16:] - exact[:, -16:]).abs().max() < 0.04
    absolute = (alibi_slopes(40)[:, None] * keys).bfloat16().float()
    steps = absolute[:, -16:] - absolute[:, -1:]
    assert (steps - exact[:, -16:]).abs().max() > 1
