from __future__ import annotations

import math

import torch

from rlhf.ops.advantages import explained_variance, gae, token_rewards


def test_token_rewards_put_the_score_on_the_last_real_token() -> None:
    kl = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, math.nan], [math.nan, 2.0, 3.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1]]).bool()
    rewards = token_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, kl_coef=0.5)
    expected = torch.tensor([[-0.5, -1.0, 8.5], [-0.5, 19.0, 0.0], [0.0, -1.0, 28.5]])
    torch.testing.assert_close(rewards, expected)


def test_gae_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0]])
    values = torch.tensor([[0.5, 1.0, 1.5]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3).bool(), gamma=0.9, lam=0.5)
    # deltas: 3 - 1.5 = 1.5; 2 + 0.9 * 1.5 - 1 = 2.35; 1 + 0.9 * 1 - 0.5 = 1.4; decay 0.45
    expected = torch.tensor([[1.4 + 0.45 * (2.35 + 0.45 * 1.5), 2.35 + 0.45 * 1.5, 1.5]])
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, expected + values)


def test_lambda_and_gamma_one_give_reward_to_go() -> None:
    rewards, values = torch.randn(4, 6), torch.randn(4, 6)
    mask = torch.ones(4, 6).bool()
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, to_go)
    torch.testing.assert_close(advantages, to_go - values)


def test_lambda_zero_gives_the_one_step_error() -> None:
    rewards, values = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 5.0]])
    advantages, _ = gae(rewards, values, torch.ones(1, 2).bool(), gamma=0.5, lam=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[1 + 2.5 - 3, 1 - 5.0]]))


def test_padding_on_either_side_changes_nothing() -> None:
    rewards, values = torch.randn(2, 4), torch.randn(2, 4)
    plain = gae(rewards, values, torch.ones(2, 4).bool(), gamma=0.9, lam=0.8)
    junk = torch.full((2, 3), math.nan)
    for left in (True, False):
        pad = (lambda x, y: [y, x]) if left else (lambda x, y: [x, y])
        mask = torch.cat(pad(torch.ones(2, 4).bool(), torch.zeros(2, 3).bool()), 1)
        padded = gae(
            torch.cat(pad(rewards, junk), 1), torch.cat(pad(values, junk), 1), mask, 0.9, 0.8
        )
        for got, expected in zip(padded, plain, strict=True):
            assert torch.equal(got[mask].view(2, 4), expected)
            assert got[~mask].eq(0).all()


def test_a_gap_in_the_mask_is_stepped_over() -> None:
    rewards, values = torch.randn(2, 3), torch.randn(2, 3)
    expected = gae(rewards, values, torch.ones(2, 3).bool(), gamma=0.9, lam=0.8)
    mask = torch.tensor([[True, False, True, True]] * 2)
    wide = [x[:, [0, 0, 1, 2]].masked_fill(~mask, math.nan) for x in (rewards, values)]
    for got, plain in zip(gae(*wide, mask, 0.9, 0.8), expected, strict=True):
        assert torch.equal(got[mask].view(2, 3), plain)


def test_explained_variance_by_hand() -> None:
    returns = torch.tensor([[1.0, 3.0, math.nan]])
    mask = torch.tensor([[True, True, False]])
    assert explained_variance(returns, returns, mask).item() == 1.0
    assert explained_variance(torch.full((1, 3), 7.0), returns, mask).item() == 0.0
    # residuals 0 and 1: variance 0.25 of the returns' 1
    assert explained_variance(torch.tensor([[1.0, 2.0, 0.0]]), returns, mask).item() == 0.75
    assert explained_variance(returns, torch.full((1, 3), 2.0), mask).item() == 0.0
