from __future__ import annotations

import torch

from rlhf.ppo.types import Rollout

PROMPT, RESPONSE = 4, 5


def test_prompts_end_where_responses_begin(rollout: Rollout) -> None:
    sequences = rollout.sequences
    assert sequences.prompt_width == PROMPT
    assert sequences.input_ids[0].tolist() == [0, 3, 4, 5, 5, 6, 2, 0, 0]
    assert sequences.attention_mask[0].int().tolist() == [0, 1, 1, 1, 1, 1, 1, 0, 0]
    assert sequences.response_mask[0].int().tolist() == [1, 1, 1, 0, 0]  # EOS is in the mask
    assert sequences.response_ids[0].tolist() == [5, 6, 2, 0, 0]
    assert sequences.lengths.tolist() == [6, 2, 7, 9, 7, 5]


def test_states_are_read_one_column_before_their_token(rollout: Rollout) -> None:
    # A critic that says the sum of what it has read so far: before token r that is the prompt
    # and y_0 .. y_{r-1}, without token r itself.
    sequences = rollout.sequences
    read = sequences.states(sequences.input_ids.cumsum(dim=1))
    assert read[0].tolist()[:3] == [12, 17, 23]
    for r in range(RESPONSE):
        expected = sequences.input_ids[:, : PROMPT + r].sum(dim=1)
        assert torch.equal(read[:, r], expected)
    last = sequences.input_ids.cumsum(dim=1)[:, -RESPONSE - 1 :]
    assert torch.equal(sequences.states(last), read)


def test_take_drops_columns_that_are_padding_in_all_rows(rollout: Rollout) -> None:
    taken = rollout.sequences.take(torch.tensor([5, 1]))
    assert taken.input_ids.tolist() == [[5, 5, 5, 8, 7], [0, 0, 6, 2, 0]]
    assert taken.attention_mask.int().tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 0]]
    assert taken.response_mask.int().tolist() == [[1, 1], [1, 0]]
    assert taken.prompt_width == 3
