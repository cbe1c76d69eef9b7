from __future__ import annotations

import torch
from torch.nn import functional

from rlhf.ops.varlen_attention import has_varlen_kernel, varlen_attention


def test_each_sequence_sees_itself_alone() -> None:
    torch.manual_seed(0)
    lengths = [3, 1, 5]
    query, key, value = (torch.randn(9, 2, 4, requires_grad=True) for _ in range(3))
    boundaries = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    found = varlen_attention(query, key, value, boundaries, longest=5, scale=0.3)

    place = torch.arange(3).repeat_interleave(torch.tensor(lengths))
    allowed = (place[:, None] == place) & torch.ones(9, 9).tril().bool()
    rows = (tensor.transpose(0, 1) for tensor in (query, key, value))
    whole = functional.scaled_dot_product_attention(*rows, attn_mask=allowed, scale=0.3)
    torch.testing.assert_close(found, whole.transpose(0, 1))

    # One token attends to itself: its value comes out.
    torch.testing.assert_close(found[3], value[3])
    (by_query,) = torch.autograd.grad(found[4:].sum(), query)
    assert (by_query[:4] == 0).all()


def test_queries_are_the_last_of_their_keys() -> None:
    torch.manual_seed(0)
    query, (key, value) = torch.randn(3, 2, 4), torch.randn(2, 8, 2, 4)
    found = varlen_attention(
        query,
        key,
        value,
        torch.tensor([0, 1, 3]),
        longest=2,
        key_boundaries=torch.tensor([0, 5, 8]),
        longest_key=5,
    )
    places = torch.tensor([4, 6, 7])
    whole = torch.zeros(8, 2, 4).index_copy(0, places, query)
    expected = varlen_attention(whole, key, value, torch.tensor([0, 5, 8]), longest=5)
    torch.testing.assert_close(found, expected[places])


def test_without_a_gpu_there_is_no_kernel() -> None:
    assert not has_varlen_kernel(torch.device("cpu"), torch.bfloat16)
    assert not has_varlen_kernel(torch.device("cuda"), torch.float32)
