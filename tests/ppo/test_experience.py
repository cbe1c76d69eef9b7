from __future__ import annotations

import dataclasses

import pytest
import torch

from rlhf.config.schema import ScoreSection
from rlhf.ops.masking import masked_whiten
from rlhf.ppo.controllers import ScoreNormaliser
from rlhf.ppo.experience import make_experience
from rlhf.ppo.measure import measure
from rlhf.ppo.types import Experience, Rollout
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import FakeRoles


def _make(
    roles: FakeRoles,
    rollout: Rollout,
    kl_coef: float = 0.0,
    recompute: bool = True,
    **changes: object,
) -> Experience:
    section = ppo_section(**changes)
    normaliser = ScoreNormaliser(ScoreSection(normalisation="none", clip=None), (None, None))
    return make_experience(
        roles, rollout, section, kl_coef=kl_coef, normaliser=normaliser, recompute=recompute
    )


def test_the_engines_logprobs_serve_without_a_pass_of_the_actor(
    roles: FakeRoles, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    recomputed = _make(roles, rollout)
    exact = dataclasses.replace(rollout, engine_logprobs=recomputed.old_logprobs)
    monkeypatch.setattr(roles, "actor_logits", None)
    experience = _make(roles, exact, recompute=False)
    for name in ("old_logprobs", "ref_logprobs", "rewards", "advantages", "returns"):
        torch.testing.assert_close(getattr(experience, name), getattr(recomputed, name))
    torch.testing.assert_close(experience.entropy, -recomputed.old_logprobs)


def test_how_many_are_scored_together_changes_nothing(roles: FakeRoles, rollout: Rollout) -> None:
    alone = _make(roles, rollout, microbatch=1)
    together = _make(roles, rollout, microbatch=1, scoring_microbatch=6).tensors()
    for name, tensor in alone.tensors().items():
        real = alone.mask if tensor.dim() == 2 else ...  # padding has no meaning
        torch.testing.assert_close(together[name][real], tensor[real])


@torch.no_grad()
def test_logprobs_and_values_belong_to_their_tokens(roles: FakeRoles, rollout: Rollout) -> None:
    """Every row alone, without padding, token by token: what stands before a token speaks of it."""
    experience = _make(roles, rollout, microbatch=3)
    sequences = rollout.sequences
    for b, completion in enumerate(rollout.completions):
        ids = sequences.input_ids[b][sequences.attention_mask[b]]
        prompt = len(ids) - len(completion.token_ids)
        for r, token in enumerate(completion.token_ids):
            state = ids[None, : prompt + r]
            logprobs = roles.actor(input_ids=state).logits[0, -1].log_softmax(-1)
            assert experience.old_logprobs[b, r] == pytest.approx(logprobs[token].item(), abs=1e-5)
            entropy = -(logprobs.exp() * logprobs).sum().item()
            assert experience.entropy[b, r] == pytest.approx(entropy, abs=1e-5)
            value = roles.critic.token_scores(state)[0, -1].item()
            assert experience.old_values[b, r] == pytest.approx(value, abs=1e-5)


def test_values_are_on_the_scale_of_the_rewards(roles: FakeRoles, rollout: Rollout) -> None:
    """A reward model whose scores lie around 3, and a critic that began as it."""
    raw = _make(roles, rollout)
    for clip in (None, 0.01):  # which is for scores alone
        fixed = ScoreNormaliser(ScoreSection(normalisation="fixed", clip=clip), (3.0, 2.0))
        scaled = make_experience(roles, rollout, ppo_section(), kl_coef=0.0, normaliser=fixed)
        expected = (raw.old_values - 3) / 2 * raw.mask
        torch.testing.assert_close(scaled.old_values, expected, rtol=1e-6, atol=1e-6)
        assert (scaled.old_values[~raw.mask] == 0).all()


def test_the_score_lands_on_the_last_token_and_eos_is_missed(
    roles: FakeRoles, rollout: Rollout
) -> None:
    experience = _make(roles, rollout, score={"missing_eos_penalty": 0.5})
    assert experience.scores.tolist() == [2.0, 0.0, 2.0, 0.0, 2.0, 3.0]
    expected = torch.zeros(6, 5)
    for row, column, score in zip(
        range(6), [2, 0, 4, 4, 4, 1], [2.0, 0.0, 2.0, -0.5, 1.5, 3.0], strict=True
    ):
        expected[row, column] = score
    torch.testing.assert_close(experience.rewards, expected)


def test_every_token_costs_the_length_penalty(roles: FakeRoles, rollout: Rollout) -> None:
    free = _make(roles, rollout)
    paid = _make(roles, rollout, score={"length_penalty": 0.25})
    lost = (free.rewards - paid.rewards).sum(dim=1)
    torch.testing.assert_close(lost, 0.25 * torch.tensor([3.0, 1.0, 5.0, 5.0, 5.0, 2.0]))
    assert (free.rewards != paid.rewards).sum() == 6  # where the score lands, and nowhere else


def test_the_penalty_is_on_every_token_and_of_the_chosen_kind(
    roles: FakeRoles, rollout: Rollout
) -> None:
    with torch.no_grad():
        roles.actor.lm_head.weight[5] += 1.0
    for kind in ("k1", "k2", "k3"):
        free = _make(roles, rollout)
        paid = _make(roles, rollout, kl_coef=0.3, kl={"estimator": kind})
        d = (paid.old_logprobs - paid.ref_logprobs)[paid.mask]
        penalty = {"k1": d, "k2": d * d / 2, "k3": (-d).exp() - 1 + d}[kind]
        torch.testing.assert_close((free.rewards - paid.rewards)[paid.mask], 0.3 * penalty)
        assert penalty.abs().min() > 0


def test_advantages_are_whitened_over_the_whole_rollout_batch(
    roles: FakeRoles, rollout: Rollout
) -> None:
    plain = _make(roles, rollout, whiten_advantages=False)
    white = _make(roles, rollout, minibatch=2)
    torch.testing.assert_close(white.advantages, masked_whiten(plain.advantages, plain.mask))
    torch.testing.assert_close(white.returns, plain.returns)


def test_measures_by_hand(roles: FakeRoles, rollout: Rollout) -> None:
    experience = _make(roles, rollout)
    found = measure(rollout, experience)
    assert found["score"] == pytest.approx(9 / 6)
    assert found["reward"] == pytest.approx((9 - 2) / 6)  # two were cut off
    assert found["response_length"] == pytest.approx(21 / 6)
    assert found["eos_rate"] == pytest.approx(4 / 6)
    assert found["kl"] == 0.0
    # 9 9 9 9 9 holds two repeated trigrams of three, 4 5 4 5 4 one
    assert found["repetition"] == pytest.approx((2 / 3 + 1 / 3) / 6)
    gaps = (experience.old_logprobs[experience.mask] + 1.0).abs().tolist()
    assert found["engine_gap"] == pytest.approx(sum(gaps) / 21)
    assert found["engine_gap_largest"] == pytest.approx(max(gaps))
