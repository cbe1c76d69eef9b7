from __future__ import annotations

import torch
from transformers import PreTrainedModel

from rlhf.generation.cache import BufferCache, BufferLayer


def test_update_appends_in_place_and_returns_what_is_filled() -> None:
    layer = BufferLayer(capacity=5)
    first, second = torch.randn(2, 3, 2, 4), torch.randn(2, 3, 1, 4)
    layer.update(first, first)
    keys, values = layer.update(second, -second)
    assert torch.equal(keys, torch.cat([first, second], 2))
    assert torch.equal(values, torch.cat([first, -second], 2))
    assert keys.data_ptr() == layer.update(second, second)[0].data_ptr()
    assert (layer.get_seq_length(), layer.get_max_length()) == (4, 5)
    assert layer.get_mask_sizes(1) == (5, 0)


@torch.no_grad()
def test_decoding_after_rows_were_dropped_equals_a_whole_forward(model: PreTrainedModel) -> None:
    ids = torch.randint(3, 50, (4, 9))
    cache = BufferCache(2, capacity=9)
    model(input_ids=ids[:, :6], past_key_values=cache)
    rows = torch.tensor([3, 1])
    cache.keep(rows)
    stepped = torch.cat(
        [model(input_ids=ids[rows, i : i + 1], past_key_values=cache).logits for i in (6, 7, 8)], 1
    )
    whole = model(input_ids=ids[rows]).logits[:, 6:]
    torch.testing.assert_close(stepped, whole, rtol=1e-4, atol=1e-4)
