from __future__ import annotations

from dataclasses import replace

import torch

from rlhf.data.collate import collate_rankings
from rlhf.data.datasets import ranking_dataset

from .stand_ins import ASSISTANT, EOS, TOKENIZER, USER, V2
from .test_datasets import ranking

A, B, Q = ord("A"), ord("B"), ord("Q")


def test_ranking_batch_by_hand() -> None:
    records = [
        # 1 > 2 > 0 with grades 2 and 4; response 3 is too long, so the pair across it is derived.
        ranking(["A", "B", "A", "BBB"], [4, 1, 3, 2], grades=[1, 2, 4]),
        ranking(["AA", "B"], [1, 2]),  # ungraded
    ]
    data = ranking_dataset(records, V2, TOKENIZER, max_length=6)
    batch = collate_rankings(data.items, pad_id=0)
    start = [USER, Q, ASSISTANT]
    assert batch.input_ids.tolist() == [
        [[*start, A, EOS, 0], [*start, B, EOS, 0], [*start, A, EOS, 0]],
        [[*start, A, A, EOS], [*start, B, EOS, 0], [0] * 6],
    ]
    assert batch.attention_mask.dtype == torch.bool
    assert batch.attention_mask.sum(dim=2).tolist() == [[5, 5, 5], [6, 5, 0]]
    assert batch.prompt_lengths.tolist() == [3, 3]
    assert batch.repeated_tokens == 3 * 2 + 3 * 1
    assert batch.ranks.tolist() == [[4, 1, 3], [1, 2, 0]]
    # Over response 0: 1 + 2 + 4 is held to 5; over response 2: 1 + 2.
    assert batch.grades.tolist() == [
        [[0, 0, 0], [5, 0, 3], [4, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ]


def test_a_common_beginning_is_part_of_the_prompt_but_each_keeps_a_token_of_its_own() -> None:
    texts = [["AAB", "AA"], ["A", "A"], ["AB", "ABB"]]
    records = [ranking(each, [1, 2]) for each in texts]
    data = ranking_dataset(records, V2, TOKENIZER, max_length=9)
    assert collate_rankings(data.items, pad_id=0).prompt_lengths.tolist() == [5, 4, 5]
    # Where one is the beginning of the other, its last token is still its own.
    short = replace(data.items[0], input_ids=((1, 2, 3), (1, 2, 3, 4)))
    assert collate_rankings([short], pad_id=0).prompt_lengths.tolist() == [2]


def test_moves_between_devices() -> None:
    data = ranking_dataset([ranking(["A", "B"], [1, 2])], V2, TOKENIZER, max_length=6)
    moved = collate_rankings(data.items, pad_id=0).to("meta")
    assert {moved.input_ids.device.type, moved.grades.device.type} == {"meta"}
