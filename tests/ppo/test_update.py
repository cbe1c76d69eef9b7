from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.config.schema import PPOSection
from rlhf.models.baichuan.trunk import BaichuanModel
from rlhf.ops.logprobs import token_logprobs
from rlhf.ppo.batching import generator
from rlhf.ppo.controllers import ScoreNormaliser
from rlhf.ppo.experience import make_experience
from rlhf.ppo.learner import Learner
from rlhf.ppo.types import Experience, Rollout
from rlhf.ppo.update import NonFinite, Statistics, update
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import FakeRoles, count_of


def _experience(roles: FakeRoles, section: PPOSection, rollout: Rollout) -> Experience:
    normaliser = ScoreNormaliser(section.score, (None, None))
    return make_experience(roles, rollout, section, kl_coef=0.1, normaliser=normaliser)


def _update(
    roles: FakeRoles, section: PPOSection, experience: Experience, dump: Path, warm: bool = True
) -> Statistics:
    actor = Learner(roles.actor_parameters(), section.actor_optimiser, 10)
    critic = Learner(roles.critic_parameters(), section.critic_optimiser, 10)
    return update(
        roles,
        experience,
        section,
        actor=actor if warm else None,
        critic=critic,
        normaliser=ScoreNormaliser(section.score, (None, None)),
        random_order=generator(0, "minibatches", 0),
        dump=dump / "refused.safetensors",
    )


@pytest.mark.parametrize(("minibatch", "microbatch"), [(3, 1), (3, 3), (6, 2), (6, 6)])
def test_the_first_ratio_is_exactly_one(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path, minibatch: int, microbatch: int
) -> None:
    section = ppo_section(minibatch=minibatch, microbatch=microbatch, epochs=2)
    experience = _experience(roles, section, rollout)
    found = _update(roles, section, experience, tmp_path)
    assert found["ratio_deviation"] == 0.0
    assert found["update_kl"] > 0.0  # later steps have moved


def test_the_clip_fraction_is_that_of_the_worst_step(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path
) -> None:
    """Of two steps the first has none, so that a mean would hide a step that is far too long."""
    wild = {"learning_rate": 0.3, "schedule": "constant"}
    section = ppo_section(minibatch=3, microbatch=3, actor_optimiser=wild)
    found = _update(roles, section, _experience(roles, section, rollout), tmp_path)
    assert found["clip_fraction"] > 0.5


def test_the_step_does_not_depend_on_the_microbatch(rollout: Rollout, tmp_path: Path) -> None:
    results = []
    for microbatch in (1, 2, 3, 6):
        roles = FakeRoles(count_of(5))
        section = ppo_section(minibatch=6, microbatch=microbatch)
        experience = _experience(roles, section, rollout)
        statistics = _update(roles, section, experience, tmp_path)
        weights = {**roles.actor_state(), **roles.critic_state()}
        results.append((statistics, weights))
    first_statistics, first_weights = results[0]
    assert first_statistics["grad_norm"] > 0
    for statistics, weights in results[1:]:
        assert statistics == pytest.approx(first_statistics, abs=1e-5)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, first_weights[name], rtol=1e-4, atol=1e-5)


def test_the_step_does_not_depend_on_how_tokens_are_counted(
    rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 2, 5, 6, 7, 7 and 9 tokens, the 9 of them 4 and 5: moved to the left, four have 7
    columns, and in multiples of 3 three have 6 and three 9; where they stay, the fourth's response
    beside the second's prompt makes 8 of them."""
    expected = [
        (1, 1, [(1, 2), (1, 5), (1, 6), (1, 7), (1, 7), (1, 9)]),
        (1, 28, [(4, 7), (2, 9)]),
        (3, 28, [(3, 6), (3, 9)]),
        (0, 28, [(3, 6), (3, 9)]),
    ]
    results = []
    for unit, tokens, shapes in expected:
        monkeypatch.setattr(BaichuanModel, "aligns_rows", unit > 0)
        monkeypatch.setattr(BaichuanModel, "width_unit", unit)
        roles, seen = FakeRoles(count_of(5)), []
        assert roles.width_unit == unit
        section = ppo_section(minibatch=6, microbatch_tokens=tokens)
        experience = _experience(roles, section, rollout)
        roles.actor.model.layers[0].register_forward_pre_hook(
            lambda block, given, seen=seen: seen.append(tuple(given[0].shape[:2]))
        )
        statistics = _update(roles, section, experience, tmp_path)
        assert seen == shapes and statistics["ratio_deviation"] == 0.0
        results.append((statistics, {**roles.actor_state(), **roles.critic_state()}))
    (first_statistics, first_weights), *others = results
    for statistics, weights in others:
        assert statistics == pytest.approx(first_statistics, abs=1e-5)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, first_weights[name], rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_mean_over_the_minibatchs_tokens(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path
) -> None:
    section = ppo_section(minibatch=6, microbatch=2)
    experience = _experience(roles, section, rollout)
    sequences, mask = experience.sequences, experience.mask
    values = sequences.states(roles.values(sequences.input_ids, sequences.attention_mask))
    loss = 0.5 * (values - experience.returns)[mask].square().mean()
    gradients = torch.autograd.grad(loss, roles.critic_parameters())
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    found = _update(roles, section, experience, tmp_path)
    # At ratio 1 the policy loss is minus the mean advantage, the value loss half the mean square.
    assert found["policy_loss"] == pytest.approx(
        -experience.advantages[mask].mean().item(), abs=1e-6
    )
    assert found["value_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["critic_grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_only_the_critic_learns_while_it_warms_up(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path
) -> None:
    section = ppo_section()
    actor, critic = roles.actor_state(), roles.critic_state()
    found = _update(roles, section, _experience(roles, section, rollout), tmp_path, warm=False)
    assert all(torch.equal(w, actor[name]) for name, w in roles.actor_state().items())
    assert not all(torch.equal(w, critic[name]) for name, w in roles.critic_state().items())
    assert found["grad_norm"] == 0.0 < found["critic_grad_norm"]


@pytest.mark.parametrize("broken", ["advantages", "returns"])
def test_nan_stops_before_the_optimiser(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path, broken: str
) -> None:
    section = ppo_section()
    experience = _experience(roles, section, rollout)
    getattr(experience, broken)[0, 0] = math.nan
    before = {**roles.actor_state(), **roles.critic_state()}
    with pytest.raises(NonFinite, match="stopped before the optimiser step: .*loss nan"):
        _update(roles, section, experience, tmp_path)
    after = {**roles.actor_state(), **roles.critic_state()}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    saved = load_file(tmp_path / "refused.safetensors")
    assert saved[broken][0, 0].isnan()
    assert len(saved["input_ids"]) == section.minibatch


def test_the_actor_moves_to_what_is_liked(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path
) -> None:
    section = ppo_section(minibatch=6, microbatch=6)
    experience = _experience(roles, section, rollout)
    _update(roles, section, experience, tmp_path)
    liked = experience.advantages > 0
    assert liked.any()
    with torch.no_grad():
        sequences = experience.sequences
        logits = roles.actor_logits(
            sequences.input_ids, sequences.attention_mask, experience.mask.shape[1]
        )
        gathered = logits.log_softmax(-1).gather(-1, sequences.response_ids[..., None]).squeeze(-1)
    gain = (gathered - experience.old_logprobs) * experience.advantages
    assert gain[experience.mask].mean() > 0


def test_with_compile_the_logprobs_are_compiled_wherever_they_are_read(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, bool]] = []

    def note(function: object, compiled: bool) -> object:
        asked.append((function, compiled))
        return function

    monkeypatch.setattr("rlhf.ppo.update.fused", note)
    monkeypatch.setattr("rlhf.ppo.experience.fused", note)
    section = ppo_section(minibatch=6, microbatch=6, compile=True)
    _update(roles, section, _experience(roles, section, rollout), tmp_path)
    assert asked == 2 * [(token_logprobs, True)]


def test_the_critic_learns_on_the_scale_of_the_rewards(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path
) -> None:
    """Its loss is of (value - mean) / std, as that of the experience is."""
    section = ppo_section(minibatch=6, microbatch=6, value_clip=None)
    normaliser = ScoreNormaliser(
        section.score.model_copy(update={"normalisation": "fixed"}), (3, 2)
    )
    experience = make_experience(roles, rollout, section, kl_coef=0.1, normaliser=normaliser)
    found = update(
        roles,
        experience,
        section,
        actor=None,
        critic=Learner(roles.critic_parameters(), section.critic_optimiser, 10),
        normaliser=normaliser,
        random_order=generator(0, "minibatches", 0),
        dump=tmp_path / "refused.safetensors",
    )
    gaps = (experience.old_values - experience.returns)[experience.mask]
    assert found["value_loss"] == pytest.approx(0.5 * gaps.square().mean().item(), rel=1e-5)


def test_update_kl_is_from_the_policy_that_sampled(
    roles: FakeRoles, rollout: Rollout, tmp_path: Path
) -> None:
    """By k3, which is not the same from either side: every token is now twice as likely."""
    section = ppo_section(minibatch=6, microbatch=6)
    experience = _experience(roles, section, rollout)
    experience = replace(experience, old_logprobs=experience.old_logprobs - math.log(2))
    found = _update(roles, section, experience, tmp_path)
    assert found["update_kl"] == pytest.approx(1 - math.log(2), rel=1e-4)


def test_the_critic_has_its_own_clip(roles: FakeRoles, rollout: Rollout, tmp_path: Path) -> None:
    section = ppo_section(minibatch=6, microbatch=6, clip=0.5, value_clip=0.25)
    experience = _experience(roles, section, rollout)
    values = experience.old_values
    experience = replace(experience, old_values=values + 1, returns=values)
    found = _update(roles, section, experience, tmp_path)
    assert found["value_loss"] == pytest.approx(0.5 * (1 - 0.25) ** 2, rel=1e-4)
