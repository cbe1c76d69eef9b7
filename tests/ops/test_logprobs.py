from __future__ import annotations

import math

import torch

from rlhf.ops.logprobs import by_chunk, chunked_token_logprobs, entropy, token_logprobs


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


def test_chunked_equals_whole_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 5, 4, requires_grad=True)
    weight = torch.randn(7, 4, requires_grad=True)
    ids = torch.randint(7, (2, 5))
    whole = token_logprobs(hidden @ weight.T, ids)
    expected = torch.autograd.grad(whole.square().sum(), (hidden, weight))
    for chunk in (1, 3, 10, 64):
        chunked = chunked_token_logprobs(hidden, weight, ids, chunk)
        torch.testing.assert_close(chunked, whole)
        gradients = torch.autograd.grad(chunked.square().sum(), (hidden, weight))
        torch.testing.assert_close(gradients, expected)


def test_chunked_never_holds_all_logits() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    hidden = torch.randn(2, 8, 4, requires_grad=True)
    with Sizes():
        logprobs = chunked_token_logprobs(hidden, torch.randn(50, 4), torch.zeros(2, 8).long(), 4)
        logprobs.sum().backward()
    assert largest == 4 * 50


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
