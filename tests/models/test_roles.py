from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import GenerationConfig

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.export import merge_adapter, save_reward_model
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.roles import Roles, build_roles
from tests.models.test_export import shaken

CPU = {"dtype": torch.float32, "device": "cpu"}
LORA = TuningSection(method="lora", r=4, alpha=8)
KINDS = ("shared", "separate", "separate-full")
TOLERANCE = 1e-4

IDS = torch.randint(3, 500, (3, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, :4], MASK[1, 9:] = 0, 0
REAL = MASK[:, -5:-1, None]  # positions on padding mean nothing
LAST = torch.tensor([11, 8, 11])


@dataclass
class World:
    sft: Path
    reward: Path

    def roles(self, kind: str, dtype: torch.dtype = torch.float32) -> Roles:
        tuning = TuningSection() if kind.endswith("full") else LORA
        name = kind.partition("-")[0]
        place = {**CPU, "dtype": dtype}
        return build_roles(name, self.sft, self.reward, tuning=tuning, **place)


@pytest.fixture(params=["baichuan2-7b", "baichuan-13b"])
def world(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> World:
    """An SFT model, and a reward model trained as an adapter on it."""
    sft = checkpoint(request.param, name="sft")
    return World(sft, adapter_on(sft, sft.parent / "rm"))


def adapter_on(base: Path, path: Path) -> Path:
    model = shaken(add_lora(load_reward_model(base, **CPU), LORA, "reward"))
    save_reward_model(model, load_tokenizer(base), path, score_mean=0.0, score_std=1.0)
    return path


def step(roles: Roles, *, critic_too: bool = True) -> None:
    """One step of the learners on one joint backward pass."""
    parameters = roles.actor_parameters() + (roles.critic_parameters() if critic_too else [])
    optimiser = torch.optim.SGD(parameters, lr=0.5)
    loss = roles.actor_logits(IDS, MASK, 4).square().mean()
    if critic_too:
        loss = loss + roles.values(IDS, MASK).square().mean()
    roles.reference_logits(IDS, MASK, 4)  # switches roles between forward and backward
    loss.backward()
    optimiser.step()


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
def test_a_checkpoint_of_the_other_kind_is_refused(world: World) -> None:
    """A language model would score by a head that has learnt nothing."""
    for actor, reward, message in (
        (world.sft, world.sft, "sft: this is a language model, and a reward model is needed"),
        (world.reward, world.reward, "rm: this is a reward model, and a language model is needed"),
    ):
        with pytest.raises(ValueError, match=message):
            build_roles("separate", actor, reward, tuning=LORA, **CPU)


def test_four_bit_weights_are_not_spread(world: World) -> None:
    tuning = TuningSection(method="qlora")
    with pytest.raises(ValueError, match="ZeRO does not spread 4-bit weights; set it to lora"):
        build_roles("separate", world.sft, world.reward, tuning=tuning, zero=3, **CPU)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_roles_are_the_models_they_come_from(world: World, kind: str) -> None:
    roles = world.roles(kind)
    sft, reward = load_causal_lm(world.sft, **CPU), load_reward_model(world.reward, **CPU)
    expected = sft(IDS, attention_mask=MASK).logits[:, -5:-1]
    for logits in (roles.actor_logits(IDS, MASK, 4), roles.reference_logits(IDS, MASK, 4)):
        assert ((logits - expected) * REAL).abs().max() < TOLERANCE
    scores = reward(IDS, attention_mask=MASK).logits[:, 0]
    assert (roles.scores(IDS, MASK) - scores).abs().max() < TOLERANCE
    tokens = reward.token_scores(IDS, MASK)
    assert ((roles.values(IDS, MASK) - tokens) * MASK).abs().max() < TOLERANCE


@pytest.mark.parametrize("world", ["baichuan-13b"], indirect=True)
def test_an_adapter_on_the_actor_s_head_learns(world: World) -> None:
    tuning = TuningSection(method="lora", r=4, targets=("W_pack", "lm_head"))
    roles = build_roles("shared", world.sft, world.reward, tuning=tuning, **CPU)
    before = roles.reference_logits(IDS, MASK, 4).detach()
    step(roles)
    product = next(p for name, p in roles.trainable("actor").items() if "lm_head.lora_B" in name)
    assert product.abs().max().item() > 0
    with torch.no_grad():
        assert torch.equal(roles.reference_logits(IDS, MASK, 4), before)
        actor = roles.actor_logits(IDS, MASK, 4)
        saved = roles.whole("actor")(IDS, attention_mask=MASK).logits[:, -5:-1]
    assert ((actor - saved) * REAL).abs().max() < TOLERANCE
    assert ((actor - before) * REAL).abs().max() > 10 * TOLERANCE
    with pytest.raises(ValueError, match="no layer 'lm_head' to adapt"):  # its critic has none
        build_roles("separate", world.sft, world.reward, tuning=tuning, **CPU)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_critic_starts_as_the_reward_model(world: World, kind: str) -> None:
    roles = world.roles(kind)
    rewards = roles.token_scores("reward", IDS, MASK)
    assert torch.equal(roles.values(IDS, MASK), rewards)
    assert torch.allclose(roles.scores(IDS, MASK), rewards[torch.arange(3), LAST], atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_values_of_the_last_states_are_those_among_all(
    world: World, kind: str, checkpointing: bool
) -> None:
    """With the gradients of all that learns."""
    roles = world.roles(kind)
    if checkpointing:
        roles.enable_gradient_checkpointing()
    found = []
    for read in (roles.values(IDS, MASK, 5), roles.values(IDS, MASK)[:, -5:]):
        values = read[:, :-1] * MASK[:, -5:-1]
        gradients = torch.autograd.grad(values.square().sum(), roles.critic_parameters())
        found.append([values, *gradients])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_only_the_learners(world: World, kind: str) -> None:
    roles = world.roles(kind)

    def seen() -> list[torch.Tensor]:
        frozen = roles.reference_logits(IDS, MASK, 4), roles.scores(IDS, MASK)
        with torch.no_grad():
            return [*frozen, roles.actor_logits(IDS, MASK, 4), roles.values(IDS, MASK)]

    before, mark = seen(), roles.frozen_fingerprint()
    step(roles, critic_too=False)
    alone = seen()
    assert [torch.equal(a, b) for a, b in zip(before, alone, strict=True)] == [
        True,
        True,
        False,
        True,
    ]
    step(roles)
    after = seen()
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.equal(alone[3], after[3])
    assert roles.frozen_fingerprint() == mark


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_recomputes_the_right_role(world: World, kind: str) -> None:
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        roles = world.roles(kind)
        if checkpointed:
            roles.enable_gradient_checkpointing()
        step(roles)
        learners = roles.actor_parameters() + roles.critic_parameters()
        grads.append([parameter.grad.clone() for parameter in learners])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_nothing_is_dropped_in_ppo(world: World, kind: str) -> None:
    tuning = LORA.model_copy(update={"dropout": 0.5})
    roles = build_roles(kind, world.sft, world.reward, tuning=tuning, **CPU)
    roles.enable_gradient_checkpointing()  # which puts the models into training mode
    step(roles)  # an adapter that has not learnt adds nothing, dropped or not
    once, again = (roles.actor_logits(IDS, MASK, 4) for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_fingerprint_is_of_every_frozen_weight(world: World, kind: str) -> None:
    """The reward model's head too, which is no part of the trunk."""
    roles = world.roles(kind)
    weights = dict(roles.frozen())
    head = next(weight for name, weight in weights.items() if weight.shape[0] == 1)
    before = roles.frozen_fingerprint()
    head.data[0, 0] += 1
    assert roles.frozen_fingerprint() != before


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
def test_a_reward_model_that_learnt_under_dropout_scores_without_it(world: World) -> None:
    path = world.reward / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_dropout": 0.5}))
    roles = world.roles("shared")
    roles.enable_gradient_checkpointing()  # which puts the models into training mode
    once, again = (roles.scores(IDS, MASK) for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("kind", KINDS)
def test_state_comes_back(world: World, kind: str) -> None:
    roles, other = world.roles(kind), world.roles(kind)
    step(roles)
    other.load_actor_state(roles.actor_state())
    other.load_critic_state(roles.critic_state())
    with torch.no_grad():
        assert torch.equal(other.actor_logits(IDS, MASK, 4), roles.actor_logits(IDS, MASK, 4))
        assert torch.equal(other.values(IDS, MASK), roles.values(IDS, MASK))
    kept = roles.actor_state()
    step(roles)
    assert not all(torch.equal(kept[name], now) for name, now in roles.actor_state().items())
    with pytest.raises(ValueError, match="another model's"):
        roles.load_actor_state(roles.critic_state())


@pytest.mark.parametrize("kind", KINDS)
def test_saved_whole(world: World, kind: str, tmp_path: Path) -> None:
    GenerationConfig(repetition_penalty=1.05).save_pretrained(str(world.sft))
    roles = world.roles(kind)
    step(roles)
    roles.save_actor(tmp_path / "actor")
    roles.save_critic(tmp_path / "critic")
    actor = load_causal_lm(tmp_path / "actor", **CPU)
    critic = load_reward_model(tmp_path / "critic", **CPU)
    with torch.no_grad():
        logits = actor(IDS, attention_mask=MASK).logits[:, -5:-1]
        assert ((logits - roles.actor_logits(IDS, MASK, 4)) * REAL).abs().max() < TOLERANCE
        values = critic.token_scores(IDS, MASK)
        assert ((values - roles.values(IDS, MASK)) * MASK).abs().max() < TOLERANCE
    assert actor.generation_config.repetition_penalty == 1.05
    # The adapter beside it, on the SFT model, is the same actor.
    adapter = tmp_path / "actor/adapter"
    assert adapter.is_dir() == ("full" not in kind)
    if adapter.is_dir():
        alone = PeftModel.from_pretrained(load_causal_lm(world.sft, **CPU), str(adapter))
        merged = merge_adapter(alone).state_dict()
        assert all(torch.equal(merged[name], part) for name, part in actor.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_generating_is_the_actor(world: World, kind: str) -> None:
    roles = world.roles(kind)
    step(roles)
    with roles.generating() as model:
        assert not model.training and not torch.is_grad_enabled()
        made = model.generate(
            IDS[2:], attention_mask=MASK[2:], max_new_tokens=3, do_sample=False, eos_token_id=None
        )
    with torch.no_grad():
        logits = roles.actor_logits(made, torch.ones_like(made), 3)
    assert torch.equal(logits.argmax(-1), made[:, -3:])
    assert torch.is_grad_enabled()


def test_shared_refuses_a_reward_model_of_another_trunk(
    world: World, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    model = merge_adapter(load_reward_model(world.reward, **CPU))
    tokenizer = load_tokenizer(world.sft)
    save_reward_model(model, tokenizer, whole, score_mean=None, score_std=None)
    with pytest.raises(ValueError, match="set ppo.roles to separate"):
        build_roles("shared", world.sft, whole, tuning=LORA, **CPU)
    build_roles("separate", world.sft, whole, tuning=LORA, **CPU)
    stranger = adapter_on(checkpoint("baichuan2-7b", name="other", seed=5), tmp_path / "rm2")
    if load_tokenizer(stranger).tokenize("a") == tokenizer.tokenize("a"):
        with pytest.raises(ValueError, match="another trunk .* set ppo.roles to separate"):
            build_roles("shared", world.sft, stranger, tuning=LORA, **CPU)
    qlora = LORA.model_copy(update={"method": "qlora"})
    with pytest.raises(ValueError, match="trained over plain weights, .* has nf4 ones"):
        build_roles("shared", world.sft, world.reward, tuning=qlora, **CPU)


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
def test_a_reward_model_in_other_bits_than_its_own_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for method, told in (("lora", False), ("qlora", True)):
        tuning = LORA.model_copy(update={"method": method})
        build_roles("separate", world.sft, world.reward, tuning=tuning, **CPU)
        assert ("rm: trained over other weights than the 4-bit ones" in caplog.text) == told


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_another_vocabulary_is_refused(world: World, kind: str) -> None:
    (world.reward / "tokenizer.model").write_bytes(b"other pieces")
    with pytest.raises(ValueError, match="its vocabulary is not that of"):
        world.roles(kind)


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_a_reward_model_of_another_family_is_refused(
    world: World, kind: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    cousin = checkpoint("baichuan-7b", name="cousin", seed=1)
    with pytest.raises(ValueError, match="its vocabulary is not that of") as refused:
        build_roles(kind, world.sft, cousin, tuning=LORA, **CPU)
    assert "train the reward model from a model with the same tokenizer.model" in str(refused.value)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="llama"):
        build_roles(kind, world.sft, tmp_path / "llama", tuning=LORA, **CPU)


def test_rows_are_moved_by_trunks_with_adapters_and_without(world: World) -> None:
    assert all(world.roles(kind).width_unit == 1 for kind in KINDS)


def test_nothing_predicts_the_first_token(world: World) -> None:
    with pytest.raises(ValueError, match="keep = 12 of 12"):
        world.roles("separate").actor_logits(IDS, MASK, 12)


@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
def test_only_what_learns_asks_for_a_gradient(world: World) -> None:
    """Whichever role was on last: they all stand on one trunk."""
    roles = world.roles("shared")
    step(roles)
    assert not any(tensor.requires_grad for _, tensor in roles.frozen())
    learning = [*roles.actor_parameters(), *roles.critic_parameters()]
    assert all(parameter.requires_grad for parameter in learning)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["baichuan2-7b"], indirect=True)
@pytest.mark.parametrize("kind", ["shared", "separate-full"])
def test_compiled_blocks_give_the_same_values_and_gradients(
    world: World, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every graph as it is captured and differentiated. To make C++ of them all takes minutes."""
    captured = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", captured)

    def built() -> Roles:
        torch.manual_seed(0)  # of the actor's adapter
        return world.roles(kind)

    def found(roles: Roles) -> list[torch.Tensor]:
        values = roles.values(IDS, MASK)[MASK > 0], roles.values(IDS, MASK, 5)[MASK[:, -5:] > 0]
        loss = roles.actor_logits(IDS, MASK, 4).square().mean() + torch.cat(values)
        loss.square().mean().backward()
        learning = [*roles.actor_parameters(), *roles.critic_parameters()]
        without = roles.reference_logits(IDS, MASK, 4), roles.scores(IDS, MASK)
        return [loss.detach(), *without, *(each.grad for each in learning if each.grad is not None)]

    plain, compiled = found(built()), built()
    compiled.compile()
    torch._dynamo.utils.counters.clear()
    for a, b in zip(plain, found(compiled), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
