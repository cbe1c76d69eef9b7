from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn import functional

from rlhf.models.baichuan import trunk
from rlhf.training.packing import FlatRows, PackedRows, pack, packed_collator
from tests.training.worlds import conversations, language_model

TWO = {"input_ids": [5, 6, 7, 8, 9], "labels": [5, -100, 7, 8, 9], "seq_lengths": [2, 3]}
ONE = {"input_ids": [4, 3, 2], "labels": [-100, 3, 2], "seq_lengths": [3]}


def test_rows_carry_positions_and_no_label_crosses_a_boundary() -> None:
    batch = PackedRows(pad_id=0)([TWO, ONE])
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [4, 3, 2, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 8, 9], [-100, 3, 2, -100, -100]]


def test_rows_end_to_end_say_where_each_conversation_begins() -> None:
    batch = FlatRows(longest=8)([TWO, ONE])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 4, 3, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 8, 9, -100, 3, 2]]
    for side in "qk":
        assert batch[f"cu_seq_lens_{side}"].tolist() == [0, 2, 5, 8]
        assert batch[f"cu_seq_lens_{side}"].dtype == torch.int32
        assert batch[f"max_length_{side}"] == 8


def test_the_layout_that_a_kernel_reads_is_taken_where_there_is_one(monkeypatch) -> None:
    model = language_model()
    model.set_attn_implementation("sdpa")
    assert isinstance(packed_collator(model, 0, longest=32), PackedRows)
    monkeypatch.setattr(trunk, "has_varlen_kernel", lambda device, dtype: True)
    assert packed_collator(model, 0, longest=32) == FlatRows(32)
    assert isinstance(packed_collator(model, 0), PackedRows)
    alibi = language_model(position_embedding="alibi")
    assert isinstance(packed_collator(alibi, 0, longest=32), PackedRows)


def test_packing_keeps_every_token_once_and_no_conversation_is_cut() -> None:
    data = conversations(50)
    rows = pack(data, 32)
    assert len(rows) < 25
    found = []
    for row in rows:
        assert sum(row["seq_lengths"]) == len(row["input_ids"]) <= 32
        start = 0
        for length in row["seq_lengths"]:
            end = start + length
            found.append((row["input_ids"][start:end], row["labels"][start:end]))
            start = end
    assert sorted(found) == sorted(zip(data["input_ids"], data["labels"], strict=True))


@pytest.mark.parametrize("position", ["rope", "alibi"])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flat", "varlen"])
def test_packed_equals_separate(position: str, attention: str) -> None:
    if (position, attention) == ("alibi", "varlen"):
        return  # its kernel has no bias, and the layout is not chosen (above)
    model = language_model(position_embedding=position).eval()
    model.set_attn_implementation({"flat": "eager", "varlen": "sdpa"}.get(attention, attention))
    data = conversations(12)
    kind = "flash_attention_2" if attention == "flat" else attention
    collate = packed_collator(SimpleNamespace(config=SimpleNamespace(_attn_implementation=kind)), 0)
    packed = (FlatRows(32) if attention == "varlen" else collate)(list(pack(data, 32)))
    loss = _summed(model, packed)
    loss.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()

    alone = sum(_summed(model, _single(data, index)) for index in range(len(data)))
    alone.backward()
    assert torch.allclose(loss, alone, rtol=1e-5)
    for name, value in model.named_parameters():
        assert torch.allclose(gradients[name], value.grad, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("collate", [PackedRows(0), FlatRows(32)])
@torch.no_grad()
def test_max_z_counts_what_it_would_in_rows_of_their_own(collate: Any, chunk: int | None) -> None:
    """Neither padding nor the last token of a conversation, which predicts nothing."""
    model, data = language_model(position_embedding="alibi").eval(), conversations(12)
    batch = {n: v for n, v in collate(list(pack(data, 32))).items() if "_seq_" not in n}
    batch = {n: v for n, v in batch.items() if not n.startswith("max_length")}
    with_z, without = (
        model(**batch, use_cache=False, loss_chunk=chunk, z_loss_weight=weight).loss
        for weight in (1.0, 0.0)
    )
    largest = [
        model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].amax(-1).square()
        for ids in data["input_ids"]
    ]
    assert float(with_z - without) == pytest.approx(float(torch.cat(largest).mean()), rel=1e-4)


def _single(data: Dataset, index: int) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([data[index][name]]) for name in ("input_ids", "labels")}


def _summed(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
