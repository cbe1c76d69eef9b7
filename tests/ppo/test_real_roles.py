"""The loop on the real roles: a tiny checkpoint, a reward adapter on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config.schema import PPOSection, SamplingSection
from rlhf.data.chat_format import encode_response
from rlhf.generation import Completion
from rlhf.models.checkpoint import score_statistics
from rlhf.models.load import load_causal_lm
from rlhf.models.roles import Roles
from rlhf.ppo import PPOSummary, train
from rlhf.ppo.controllers import ScoreNormaliser
from rlhf.ppo.experience import make_experience
from rlhf.ppo.learner import Learner
from rlhf.ppo.measure import measure
from rlhf.ppo.rollout import assemble, sample
from rlhf.ppo.update import update
from rlhf.runtime.metrics import MetricsLog, read_rows
from tests.models.test_roles import KINDS, World, world
from tests.ppo.conftest import ppo_section

__all__ = ["world"]  # fixtures

PROMPTS = [[195, 300 + i, 320 + i, 196][i % 2 :] for i in range(8)]


def _section(kind: str) -> PPOSection:
    return ppo_section(
        roles=kind.partition("-")[0],
        tuning={"method": "full" if kind.endswith("full") else "lora"},
        iterations=4,
        rollout_batch=4,
        minibatch=2,
        epochs=2,
        critic_warmup=1,
        checkpoint_every=2,
        score={"normalisation": "fixed"},
    )


class Interrupt(Exception):
    pass


def _train(
    world: World,
    kind: str,
    directory: Path,
    interrupt_at: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Roles, PPOSummary]:
    def on_iteration(done: int, total: int, shown: dict[str, float]) -> None:
        if done == interrupt_at:
            raise Interrupt

    torch.manual_seed(0)  # adapters start at random
    roles = world.roles(kind, dtype)
    with MetricsLog(directory) as metrics:
        summary = train(
            roles,
            PROMPTS,
            _section(kind),
            score_statistics=score_statistics(world.reward),
            output_dir=directory,
            seed=0,
            metrics=metrics,
            on_iteration=on_iteration,
        ).summary
    return roles, summary


@pytest.mark.parametrize("kind", KINDS)
def test_real_roles_train_and_resume(world: World, kind: str, tmp_path: Path) -> None:
    roles, summary = _train(world, kind, tmp_path / "whole")
    rows = read_rows(tmp_path / "whole" / "metrics.jsonl")
    assert all(row["ratio_deviation"] == 0 for row in rows)
    assert all(row["engine_gap_largest"] < 1e-3 for row in rows)
    assert [abs(row["kl"]) < 1e-6 for row in rows] == [True, True, False, False]
    assert roles.frozen_fingerprint() == world.roles(kind).frozen_fingerprint()

    with pytest.raises(Interrupt):
        _train(world, kind, tmp_path / "cut", interrupt_at=3)
    resumed, same = _train(world, kind, tmp_path / "cut")
    assert same == summary
    assert read_rows(tmp_path / "cut" / "metrics.jsonl") == rows
    for role in ("actor_state", "critic_state"):
        after = getattr(resumed, role)()
        for name, tensor in getattr(roles, role)().items():
            assert torch.equal(tensor, after[name])


@pytest.mark.parametrize("kind", ["shared", "separate-full"])
def test_roles_in_bfloat16_learn_and_resume(world: World, kind: str, tmp_path: Path) -> None:
    """The float32 weights behind them too, or the second half would go another way."""
    roles, summary = _train(world, kind, tmp_path / "whole", dtype=torch.bfloat16)
    learning = {n: p for n, p in roles.trainable("actor").items() if "lora_" in n or "proj" in n}
    assert {p.dtype for p in learning.values()} == {torch.bfloat16}
    start = world.roles(kind, torch.bfloat16).actor_state()
    assert any(not torch.equal(start[name], p) for name, p in learning.items())
    with pytest.raises(Interrupt):
        _train(world, kind, tmp_path / "cut", interrupt_at=3, dtype=torch.bfloat16)
    resumed, same = _train(world, kind, tmp_path / "cut", dtype=torch.bfloat16)
    assert same == summary
    for name, tensor in roles.actor_state().items():
        assert torch.equal(tensor, resumed.actor_state()[name])


def test_the_saved_actor_is_the_trained_one(world: World, tmp_path: Path) -> None:
    roles, _ = _train(world, "shared", tmp_path)
    roles.save_actor(tmp_path / "actor")
    saved = load_causal_lm(tmp_path / "actor", dtype=torch.float32, device="cpu").eval()
    start = load_causal_lm(world.sft, dtype=torch.float32, device="cpu").eval()
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad(), roles.generating() as actor:
        expected = actor(input_ids=ids).logits
        torch.testing.assert_close(saved(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-3)
        assert (start(input_ids=ids).logits - expected).abs().max() > 1e-2


def test_shared_and_separate_roles_have_the_same_losses(world: World, tmp_path: Path) -> None:
    """The same weights and the same experience, with old logprobs and values some way off."""
    found = []
    for kind in KINDS:
        roles, section = world.roles(kind), _section(kind)
        completions = [Completion((300, 310 + i, 2), (-1.0,) * 3, "eos") for i in range(3)]
        completions.append(Completion((7, 8, 9, 10, 11), (-1.0,) * 5, "length"))
        rollout = assemble(PROMPTS[:4], completions, 0, torch.device("cpu"))
        normaliser = ScoreNormaliser(section.score, score_statistics(world.reward))
        experience = make_experience(roles, rollout, section, kl_coef=0.1, normaliser=normaliser)
        noise = torch.linspace(-0.3, 0.3, experience.mask.numel()).view(experience.mask.shape)
        moved = replace(
            experience,
            old_logprobs=experience.old_logprobs + noise,
            old_values=experience.old_values - noise,
        )
        statistics = update(
            roles,
            moved,
            section.model_copy(update={"minibatch": 4, "epochs": 1}),
            actor=Learner(roles.actor_parameters(), section.actor_optimiser, 1),
            critic=Learner(roles.critic_parameters(), section.critic_optimiser, 1),
            normaliser=normaliser,
            random_order=torch.Generator(),
            dump=tmp_path / "refused",
        )
        losses = {name: value for name, value in statistics.items() if "norm" not in name}
        found.append({**losses, **measure(rollout, experience)})
    shared, *others = found
    assert shared["clip_fraction"] > 0 and shared["value_loss"] > 0
    for other in others:
        assert other == pytest.approx(shared, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_a_stop_string_ends_answers_which_are_scored_as_the_text_before_it(
    world: World, engine: str
) -> None:
    roles = world.roles("shared")
    stop = ("w", "T", "今天", "_1")
    sampling = SamplingSection(max_new_tokens=12, stop=stop)
    section = _section("shared").model_copy(update={"sampling": sampling, "engine": engine})
    section = section.model_copy(update={"responses_per_prompt": 3})
    rollout = sample(roles, PROMPTS, section, torch.Generator().manual_seed(0))
    reasons = [completion.stop_reason for completion in rollout.completions]
    assert {"stop", "length"} <= set(reasons)
    assert rollout.ended.tolist() == [reason != "length" for reason in reasons]
    normaliser = ScoreNormaliser(section.score, score_statistics(world.reward))
    experience = make_experience(roles, rollout, section, kl_coef=0.0, normaliser=normaliser)
    for b, completion in enumerate(rollout.completions):
        prompt, answer = PROMPTS[b % len(PROMPTS)], list(completion.token_ids)
        text = completion.text(roles.tokenizer)
        if completion.stop is not None:
            assert not any(string in text for string in stop)
            assert completion.stop in roles.tokenizer.decode(answer)
            answer = encode_response(roles.spec, roles.tokenizer, text)
            assert answer[-1] == roles.tokenizer.eos_token_id
        ids = torch.tensor([[*prompt, *answer]])
        score = roles.scores(ids, torch.ones_like(ids)).item()
        assert experience.scores[b] == pytest.approx(score, abs=1e-4)
        penalty = section.score.missing_eos_penalty * (completion.stop_reason == "length")
        # The policy's own tokens learn: the score lands on the one that completed the string.
        last = len(completion.token_ids) - 1
        landed = experience.rewards[b].nonzero().flatten().tolist()
        assert landed == [last]
        assert experience.rewards[b, last] == pytest.approx(score - penalty, abs=1e-3)
