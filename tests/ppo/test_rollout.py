from __future__ import annotations

import logging

import pytest
import torch

from rlhf.config.schema import SamplingSection
from rlhf.ppo.rollout import fitting, prompt_limit, sample, warn_of_another_policy
from rlhf.ppo.types import Rollout
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import EOS, FakeRoles


def test_fitting_drops_what_is_too_long() -> None:
    assert fitting([[1, 2, 3], [1], [1, 2]], limit=2) == [1, 2]


def test_no_prompt_left_is_refused_with_the_setting_to_change() -> None:
    with pytest.raises(ValueError, match="none of the 1 prompts has at most 2.*max_prompt_tokens"):
        fitting([[1, 2, 3]], limit=2)


def test_prompts_are_as_long_as_the_context_leaves_beside_a_response(roles: FakeRoles) -> None:
    """The fakes read 64 tokens."""
    for most, new, expected in [(16, 8, 16), (64, 8, 56), (512, 63, 1)]:
        sampling = SamplingSection(max_new_tokens=new)
        section = ppo_section(max_prompt_tokens=most, sampling=sampling)
        assert prompt_limit(roles, section) == expected
    with pytest.raises(ValueError, match="max_new_tokens 64 leaves no room.*reads 64 tokens"):
        prompt_limit(roles, ppo_section(sampling=SamplingSection(max_new_tokens=64)))


def test_assembled_rollout_carries_the_stop_reason(rollout: Rollout) -> None:
    assert rollout.ended.tolist() == [True, True, True, False, False, True]
    assert rollout.engine_logprobs[1].tolist() == [-1.0, 0.0, 0.0, 0.0, 0.0]


def test_sample_answers_every_prompt_k_times(roles: FakeRoles) -> None:
    prompts = [[3, 4, 5], [6]]
    section = ppo_section(rollout_batch=2, responses_per_prompt=3)
    rollout = sample(roles, prompts, section, torch.Generator().manual_seed(0))
    sequences, width = rollout.sequences, rollout.sequences.prompt_width
    assert [row[row != 0].tolist() for row in sequences.input_ids[:, :width]] == prompts * 3
    assert len({completion.token_ids for completion in rollout.completions}) > 2
    for r, completion in enumerate(rollout.completions):
        length = int(sequences.response_mask[r].sum())
        assert tuple(sequences.response_ids[r, :length].tolist()) == completion.token_ids
        assert rollout.ended[r] == (completion.token_ids[-1] == EOS)


def test_decoding_in_parts_gives_the_same_answers(roles: FakeRoles) -> None:
    prompts = [[3, 4, 5], [6], [7, 8], [9, 3, 4, 4], [5]]
    rollouts = [
        sample(
            roles,
            prompts,
            ppo_section(rollout_batch=5, minibatch=5, rollout_microbatch=size),
            torch.Generator().manual_seed(0),
        )
        for size in (2, 5)
    ]
    tokens = [[c.token_ids for c in rollout.completions] for rollout in rollouts]
    assert tokens[0] == tokens[1]
    torch.testing.assert_close(rollouts[0].engine_logprobs, rollouts[1].engine_logprobs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"temperature": 0.7}, "ppo.sampling has temperature 0.7: "),
        ({"top_k": 5, "top_p": 0.9}, "ppo.sampling has top_k 5, top_p 0.9: "),
        ({"repetition_penalty": 1.1}, "ppo.sampling has repetition_penalty 1.1: "),
    ],
)
def test_sampling_from_another_policy_is_warned_of(
    changes: dict[str, float], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_another_policy(SamplingSection.model_validate(changes))
    assert caplog.text.count("\n") == (said is not None)
    assert (said or "") in caplog.text
