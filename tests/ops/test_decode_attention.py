from __future__ import annotations

import pytest
import torch

from rlhf.ops.decode_attention import decode_attention

SEQUENCES, HEADS, CAPACITY = 3, 2, 150


@pytest.mark.parametrize(("width", "alibi"), [(128, False), (48, True)])
@pytest.mark.parametrize("kernel", [False, True])
def test_equals_attention_of_every_sequence_alone(width: int, alibi: bool, kernel: bool) -> None:
    device = torch.device("cuda" if kernel else "cpu")
    if kernel and not torch.cuda.is_available():
        pytest.skip("the kernel runs on a GPU")
    generator = torch.Generator().manual_seed(0)
    new = torch.randn(3, SEQUENCES, HEADS, width, generator=generator).to(device)
    cache = torch.randn(2, SEQUENCES, HEADS, CAPACITY, width, generator=generator).to(device)
    lengths = torch.tensor([0, 5, CAPACITY - 1], device=device)
    slopes = torch.tensor([0.5, 0.125], device=device) if alibi else None
    before = cache.clone()
    query, key, value = new
    found = decode_attention(query, key, value, cache[0], cache[1], lengths, slopes)
    for row, length in enumerate(lengths.tolist()):
        keys = torch.cat([before[0, row, :, :length], key[row][:, None]], dim=1)
        values = torch.cat([before[1, row, :, :length], value[row][:, None]], dim=1)
        logits = torch.einsum("hd,hcd->hc", query[row], keys) / width**0.5
        if slopes is not None:
            logits += slopes[:, None] * (torch.arange(length + 1, device=device) - length)
        expected = torch.einsum("hc,hcd->hd", logits.softmax(-1), values)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
        # what is written is the new token's column, and nothing else
        before[0, row, :, length], before[1, row, :, length] = key[row], value[row]
    assert torch.equal(cache, before)
