from __future__ import annotations

from typing import Any

import pytest

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.demo.rehearse import rehearse


def real(**changes: Any) -> Config:
    """configs/baichuan2_7b.yaml with other sections; mappings are merged one level deep."""
    values = load_config("baichuan2_7b").model_dump()
    for key, change in changes.items():
        old = values[key]
        values[key] = old | change if isinstance(old, dict) and isinstance(change, dict) else change
    return Config.model_validate(values)


def test_structure_stays():
    config = real(rounds=2)
    small = rehearse(config)
    assert small.rounds == 2
    assert [(s.size, s.stage) for s in small.collect.models] == [
        (s.size, s.stage) for s in config.collect.models
    ]
    assert small.collect.responses_per_prompt == config.collect.responses_per_prompt
    assert small.ppo.roles == config.ppo.roles and small.ppo.kl == config.ppo.kl
    for section in ("sft", "rm", "ppo"):
        assert getattr(small, section).tuning == getattr(config, section).tuning
    assert small.sft.max_z_weight == config.sft.max_z_weight


def test_nothing_is_compiled_on_a_cpu():
    small = rehearse(load_config("baichuan2_7b_fast"))
    assert not any(section.compile for section in (small.sft, small.rm, small.ppo))


def test_dpo_is_small_where_there_is_one():
    assert rehearse(real()).dpo is None
    section = {"tuning": {"method": "qlora"}, "model": "elsewhere/sft", "beta": 0.3}
    dpo = rehearse(real(rounds=1, dpo=section)).dpo
    assert dpo is not None and dpo.max_steps == 8 and dpo.beta == 0.3
    assert dpo.tuning.method == "lora" and dpo.model is None


def test_nothing_of_the_users_is_needed():
    small = rehearse(real(data={"taxonomy": "own.yaml", "audits": "audits.jsonl"}))
    assert small.name == "baichuan2_7b-rehearsal"
    assert small.annotation.source == "simulated"
    named = [small.main.path, *(source.path for source in small.collect.models)]
    named += [value for value in small.data.model_dump().values() if isinstance(value, str)]
    assert all(path.startswith(("demo://", "run://")) for path in named)
    assert small.data.taxonomy is None and small.data.audits is None


def test_the_users_files_of_rankings_and_checkpoints_are_not_needed_either():
    data = {"held_out": ["absent.jsonl"], "known_checkpoints": ["absent"], "off_family": "drop"}
    small = rehearse(real(rm={"data": data})).rm.data
    assert (small.held_out, small.known_checkpoints, small.off_family) == ((), (), "drop")


def test_models_are_small_ones_of_the_same_architecture():
    demo = rehearse(load_config("baichuan2_7b")).demo
    assert demo is not None and demo.checkpoints == {
        "main": "baichuan2-7b",
        "source-Baichuan2-7B-Chat": "baichuan2-7b",
        "source-Baichuan2-13B-Chat": "baichuan2-13b",
    }


def test_odd_directory_names_are_no_obstacle():
    source = {"path": "/models/my chat (v2)", "size": "7b", "stage": "ppo"}
    same_name = {"path": "/elsewhere/main", "size": "13b", "stage": "ppo"}
    small = rehearse(real(collect={"models": (source, same_name)}))
    assert small.demo is not None
    assert {"main", "source-my-chat--v2-", "source-main"} == set(small.demo.checkpoints)


def test_counts_shrink_and_never_grow():
    few = {"iterations": 2, "critic_warmup": 1}
    small = rehearse(real(ppo=few, rm={"max_steps": 3}, sft={"max_steps": None}))
    assert (small.ppo.iterations, small.rm.max_steps, small.sft.max_steps) == (2, 3, 30)
    assert rehearse(load_config("baichuan2_7b")).ppo.iterations == 4
    assert small.ppo.sampling.max_new_tokens == 32


def test_no_warm_up_stays_none():
    small = rehearse(real(ppo={"iterations": 1, "critic_warmup": 0}))
    assert (small.ppo.iterations, small.ppo.critic_warmup) == (1, 0)
    assert rehearse(real(ppo={"critic_warmup": 0})).ppo.critic_warmup == 0


def test_a_horizon_is_no_shorter_than_an_iteration():
    """A rehearsal's iteration has 16 prompts, more than this config's."""
    few = {"rollout_batch": 8, "minibatch": 8, "microbatch": 8, "responses_per_prompt": 2}
    kl = {"schedule": "adaptive", "target": 5.0, "horizon": 20}
    small = rehearse(real(ppo=few | {"kl": kl})).ppo
    assert (small.episodes, small.kl.horizon) == (32, 32) and small.kl.target == 5.0
    assert rehearse(real(ppo=few | {"kl": kl | {"horizon": 99}})).ppo.kl.horizon == 99


def test_what_needs_compiled_blocks_or_8_bit_adamw_goes_with_them():
    compiled = {"compile": True, "activation_budget": 0.7}
    assert rehearse(real(sft=compiled)).sft.activation_budget == 1
    optimiser, tuning = {"kind": "adamw-8bit"}, {"method": "full"}
    split = {"optimiser": optimiser, "tuning": tuning, "split_weights": True}
    assert not rehearse(real(sft=split)).sft.split_weights


def test_nf4_and_8_bit_adamw_become_plain():
    tuning, optimiser = {"method": "qlora", "r": 4}, {"kind": "adamw-8bit"}
    changed = {"tuning": tuning, "critic_optimiser": optimiser}
    small = rehearse(real(sft={"tuning": tuning, "optimiser": optimiser}, ppo=changed))
    assert (small.sft.optimiser.kind, small.ppo.critic_optimiser.kind) == ("adamw", "adamw")
    assert (small.sft.tuning.method, small.ppo.tuning.method) == ("lora", "lora")
    assert small.sft.tuning.r == 4


def test_inputs_from_other_runs_become_this_runs_own():
    small = rehearse(
        real(ppo={"actor": "runs/x/sft/main", "reward_model": "run://rm"}, rm={"model": "w"})
    )
    assert (small.ppo.actor, small.ppo.reward_model, small.rm.model) == (None, "run://rm", None)


@pytest.mark.parametrize("curation", [None, {"sample": 200, "threshold": 0.9}])
def test_curation_is_kept_but_leaves_the_demo_something(curation):
    small = rehearse(real(sft={"curation": curation})).sft.curation
    assert (small is None) == (curation is None)
    assert small is None or small.threshold < 0.5


def test_a_rehearsal_can_be_rehearsed():
    small = rehearse(load_config("tiny"))
    assert set(small.models) == {"main", "large"} and small.rounds == 2
