from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from rlhf.planning.allocations import Allocations, as_on_gpu


def height(model, work, autocast=None, vocabulary=-1):
    counted = Allocations(vocabulary, model)
    with as_on_gpu(counted, autocast):
        kept = work()
    return counted, kept


def test_counts_what_is_alive_at_once():
    """Three tensors of 4 KiB, of which two are alive at a time, over weights that were there."""
    model = nn.Linear(32, 32, bias=False, device="meta")
    x = torch.empty(32, 32, device="meta", requires_grad=False)
    model.register_buffer("x", x)

    def work():
        with torch.no_grad():
            a = functional.linear(x, model.weight)
            b = a + 1
            del a
            return b * 2

    counted, kept = height(model, work)
    assert counted.peak == {"activations": 2 * 4096}
    assert counted.live == 4096
    del kept
    assert counted.live == 0


def test_rounds_as_the_allocator_does():
    counted, _ = height(nn.Identity(), lambda: torch.empty(3, device="meta") + 1)
    assert counted.live == 512


def test_kinds():
    model = nn.Linear(64, 1000, bias=False, device="meta")

    def work():
        return model(torch.empty(8, 64, device="meta", dtype=torch.bfloat16))

    counted, _ = height(model, work, torch.bfloat16, vocabulary=1000)
    assert counted.peak["logits"] == 16_384  # 8 x 1,000 x 2, in blocks of 512
    assert counted.peak["weights"] == 2 * 64 * 1000  # autocast's copy, in bfloat16


def test_attention_keeps_no_scores():
    heads = torch.empty(1, 4, 512, 16, device="meta", requires_grad=True)
    holder = nn.ParameterList([nn.Parameter(heads)])

    def work():
        query = holder[0]
        return functional.scaled_dot_product_attention(query, query, query, is_causal=True)

    counted, output = height(holder, work)
    states, sums = 4 * 512 * 16 * 4, 4 * 512 * 4
    assert counted.live == states + sums  # the output and a number a row
    with as_on_gpu(counted, None):
        torch.autograd.backward(output.sum())
    assert sum(counted.peak.values()) < 4 * 512 * 512 * 4


def test_numbers_on_the_cpu_stay_numbers():
    """Ids and masks decide shapes before they meet a meta tensor."""
    table = nn.Embedding(10, 64, device="meta")
    ids = torch.tensor([[1, 2, 3, 4]])

    def work():
        states = table(ids)
        return states[ids > 2]

    _, kept = height(table, work)
    assert kept.shape == (2, 64) and kept.is_meta


def test_functions_are_put_back():
    before = functional.linear, functional.scaled_dot_product_attention
    height(nn.Identity(), lambda: None)
    assert (functional.linear, functional.scaled_dot_product_attention) == before
