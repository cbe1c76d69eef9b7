"""From lists of token ids to padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from rlhf.data.datasets import RankingItem
from rlhf.ops.padding import pad_right


@dataclass(frozen=True)
class RankingBatch:
    """N prompts with up to K responses each. Rows that fill up K have rank 0 and no real token.

    input_ids: [N, K, T] prompt and response, right-padded.
    attention_mask: [N, K, T] bool, True at real tokens.
    prompt_lengths: [N] how many first tokens a prompt's K rows have in common: the prompt, and what
        all responses begin with; every row has one more at least.
    ranks: [N, K] 1 is best, equal ranks tie, 0 is padding.
    grades: [N, K, K] grade of the pair (chosen, rejected); 0 where there is no pair or no grade.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_lengths: Tensor
    ranks: Tensor
    grades: Tensor

    @property
    def repeated_tokens(self) -> Tensor:
        """How many tokens are copies of a prompt, which sharing leaves out. A scalar."""
        responses = self.attention_mask.any(dim=2).sum(dim=1)
        return (self.prompt_lengths * (responses - 1)).sum()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RankingBatch:
        """The same batch on another device."""
        return RankingBatch(
            input_ids=self.input_ids.to(device, non_blocking=non_blocking),
            attention_mask=self.attention_mask.to(device, non_blocking=non_blocking),
            prompt_lengths=self.prompt_lengths.to(device, non_blocking=non_blocking),
            ranks=self.ranks.to(device, non_blocking=non_blocking),
            grades=self.grades.to(device, non_blocking=non_blocking),
        )


def collate_rankings(items: Sequence[RankingItem], pad_id: int) -> RankingBatch:
    """N ranked prompts as one batch, padded to the most responses and the longest sequence."""
    most = max(len(item.input_ids) for item in items)
    rows = [ids for item in items for ids in _filled(item.input_ids, most)]
    input_ids, attention_mask = pad_right(rows, pad_id)
    shape = (len(items), most, input_ids.shape[1])
    return RankingBatch(
        input_ids=input_ids.view(shape),
        attention_mask=attention_mask.view(shape),
        prompt_lengths=torch.tensor([_common_length(item.input_ids) for item in items]),
        ranks=pad_right([item.ranks for item in items], 0)[0],
        grades=torch.stack([_grade_matrix(item, most) for item in items]),
    )


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    alike = (len(set(column)) == 1 for column in zip(*rows, strict=False))
    return min(sum(takewhile(bool, alike)), min(map(len, rows)) - 1)


def _filled(rows: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    return [*rows, *[()] * (count - len(rows))]


def _grade_matrix(item: RankingItem, size: int) -> Tensor:
    matrix = torch.zeros(size, size, dtype=torch.long)
    for pair in item.pairs:
        matrix[pair.chosen, pair.rejected] = pair.grade or 0
    return matrix
