"""The arithmetic of stage 3: what cannot be is refused with the numbers to change."""

from __future__ import annotations

import pytest

from rlhf.config.ppo import PPOSection


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rollout_batch": 10, "responses_per_prompt": 3, "minibatch": 8, "microbatch": 1},
            "rollout_batch x responses_per_prompt = 30 is not a multiple of minibatch = 8; "
            "set minibatch to 6 or 10, or change rollout_batch x responses_per_prompt",
        ),
        (
            {"rollout_batch": 4, "minibatch": 64},
            "rollout_batch x responses_per_prompt = 4 is not a multiple of minibatch = 64; "
            "set minibatch to 4, or change",
        ),
        (
            {"minibatch": 32, "microbatch": 12},
            "minibatch = 32 is not a multiple of microbatch = 12; set microbatch to 8 or 16,",
        ),
        (
            {"iterations": 20},
            "critic_warmup = 20 leaves the actor none of iterations = 20; lower the one",
        ),
        ({"tuning": {"method": "full"}}, "use roles: separate for full"),
        (
            {"roles": "separate", "tuning": {"method": "lora", "targets": ("W_pack", "lm_head")}},
            "a critic of its own has no lm_head to tune; take it out of tuning.targets",
        ),
    ],
)
def test_impossible_numbers_name_the_ones_to_change(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        PPOSection.model_validate(changes)
    assert said in str(refused.value)


def test_a_head_is_no_target_where_every_weight_learns() -> None:
    PPOSection.model_validate(
        {"roles": "separate", "tuning": {"method": "full", "targets": ("lm_head",)}}
    )
    PPOSection.model_validate({"tuning": {"method": "lora", "targets": ("W_pack", "lm_head")}})


def test_microbatches_by_tokens_have_no_size_that_could_not_divide() -> None:
    assert PPOSection(minibatch=32, microbatch=12, microbatch_tokens=4096).minibatch == 32
