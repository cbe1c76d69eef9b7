"""What stands beside a response, and how wide the batch is, changes nothing for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.generation import Completion
from rlhf.ppo.batching import generator
from rlhf.ppo.controllers import ScoreNormaliser
from rlhf.ppo.experience import make_experience
from rlhf.ppo.learner import Learner
from rlhf.ppo.rollout import assemble
from rlhf.ppo.types import Experience, Rollout, Sequences
from rlhf.ppo.update import update
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import FakeRoles, count_of

JUNK = 9


def _wider(rollout: Rollout, left: int, right: int) -> Rollout:
    """Padding of `left` columns before every prompt and `right` after every response."""

    def padded(x: Tensor, fill: float, before: int = left) -> Tensor:
        return torch.nn.functional.pad(x, (before, right), value=fill)

    sequences = rollout.sequences
    wider = Sequences(
        input_ids=padded(sequences.input_ids, JUNK),
        attention_mask=padded(sequences.attention_mask, False),
        response_mask=padded(sequences.response_mask, False, before=0),
    )
    return Rollout(
        sequences=wider,
        scored=wider,
        engine_logprobs=padded(rollout.engine_logprobs, 0.0, before=0),
        ended=rollout.ended,
        completions=rollout.completions,
    )


def _experience(roles: FakeRoles, rollout: Rollout, **changes: object) -> Experience:
    section = ppo_section(**{"minibatch": 6, "microbatch": 6, **changes})
    with torch.no_grad():  # an actor that has left the reference, so that the KL counts
        roles.actor.lm_head.weight[5] += 0.5
    normaliser = ScoreNormaliser(section.score, (None, None))
    return make_experience(roles, rollout, section, kl_coef=0.3, normaliser=normaliser)


@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 4), (2, 5)])
def test_extra_padding_changes_nothing_through_the_whole_update(
    rollout: Rollout, tmp_path: Path, left: int, right: int
) -> None:
    section = ppo_section(minibatch=3, microbatch=1, epochs=2)
    results = []
    for each in (rollout, _wider(rollout, left, right)):
        roles = FakeRoles(count_of(5))
        statistics = update(
            roles,
            _experience(roles, each, minibatch=3, microbatch=1),
            section,
            actor=Learner(roles.actor_parameters(), section.actor_optimiser, 4),
            critic=Learner(roles.critic_parameters(), section.critic_optimiser, 4),
            normaliser=ScoreNormaliser(section.score, (None, None)),
            random_order=generator(0, "minibatches", 0),
            dump=tmp_path / "refused.safetensors",
        )
        results.append((statistics, {**roles.actor_state(), **roles.critic_state()}))
    (statistics, weights), (wide_statistics, wide_weights) = results
    assert statistics["grad_norm"] > 0
    assert wide_statistics == pytest.approx(statistics, rel=1e-5, abs=1e-7)
    for name, weight in weights.items():
        torch.testing.assert_close(wide_weights[name], weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("whole", [True, False], ids=["padded", "alone"])
def test_a_row_alone_has_the_numbers_that_it_has_among_longer_ones(
    rollout: Rollout, whole: bool
) -> None:
    """In the batch rows are padded on both sides, alone on neither: logprobs, values, scores,
    rewards, advantages and returns agree, wherever the padding stands."""
    among = _experience(FakeRoles(count_of(5)), rollout, whiten_advantages=False)
    for b, completion in enumerate(rollout.completions):
        prompt = rollout.sequences.input_ids[b, :4][rollout.sequences.attention_mask[b, :4]]
        single = assemble([prompt.tolist()], [completion], 0, torch.device("cpu"))
        each = _wider(single, 2, 3) if whole else single
        alone = _experience(
            FakeRoles(count_of(5)),
            each,
            whiten_advantages=False,
            rollout_batch=1,
            minibatch=1,
            microbatch=1,
        )
        length = len(completion.token_ids)
        for name, tensor in alone.tensors().items():
            expected = among.tensors()[name][b]
            if tensor.dim() == 2:
                assert tensor[0, length:].eq(0).all() or name not in ("rewards", "advantages")
                tensor, expected = tensor[:, :length], expected[:length]
            torch.testing.assert_close(tensor[0], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_responses_of_one_token_and_of_all_lengths_score_on_their_last(
    roles: FakeRoles,
) -> None:
    completions = [
        Completion((2,), (-1.0,), "eos"),
        Completion((5, 7), (-1.0,) * 2, "stop"),
        Completion((5,) * 5, (-1.0,) * 5, "length"),
    ]
    rollout = assemble([[3], [4, 4], [6]], completions, 0, torch.device("cpu"))
    experience = _experience(
        roles, rollout, rollout_batch=3, minibatch=3, microbatch=3, kl={"initial": 0.0}
    )
    last = [0, 1, 4]
    free = experience.rewards + 0.3 * experience.kl * experience.mask
    expected = torch.zeros(3, 5)
    for row, (column, score) in enumerate(zip(last, [0.0, 1.0, 5.0 - 1.0], strict=True)):
        expected[row, column] = score
    torch.testing.assert_close(free, expected, rtol=1e-5, atol=1e-5)
    assert [completion.stop_reason for completion in rollout.completions] == [
        "eos",
        "stop",
        "length",
    ]
    assert rollout.ended.tolist() == [True, True, False]
