from __future__ import annotations

import math

import torch

from rlhf.ops.logprobs import by_chunk, entropy, token_logprobs


def test_token_logprobs_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0]]])
    expected = torch.tensor([[math.log(0.75), math.log(0.2)]])
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([[1, 1]])), expected)


def test_token_logprobs_is_stable_and_float32() -> None:
    logits = torch.tensor([[[1e4, 1e4, -1e4]]], dtype=torch.float32)
    assert abs(token_logprobs(logits, torch.tensor([[0]])).item() + math.log(2)) < 1e-6
    assert token_logprobs(logits.bfloat16(), torch.tensor([[0]])).dtype == torch.float32


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -math.inf, -math.inf]])
    torch.testing.assert_close(entropy(logits), torch.tensor([math.log(4), math.log(2)]))


def test_by_chunk_is_the_whole_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 50, generator=generator)
    ids = torch.randint(50, (3, 7), generator=generator)
    for chunk in (1, 4, 21, 100):
        assert torch.equal(
            by_chunk(token_logprobs, chunk, logits, ids), token_logprobs(logits, ids)
        )
        assert torch.equal(by_chunk(entropy, chunk, logits), entropy(logits))


def test_by_chunk_never_hands_over_more_than_a_chunk() -> None:
    seen = []

    def first(logits: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return logits[:, 0]

    by_chunk(first, 4, torch.zeros(2, 5, 3))
    assert seen == [4, 4, 2]
