from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.training.neftune import conversation_lengths, noisy_embeddings
from rlhf.training.packing import FlatRows, PackedRows
from tests.models.moss import conftest as moss
from tests.training.worlds import language_model

EIGHT, TWO = [5] * 8, [6] * 2
ROW = {"input_ids": [*EIGHT, *TWO], "labels": [*EIGHT, *TWO], "seq_lengths": [8, 2]}
SHORT = {"input_ids": TWO, "labels": TWO, "seq_lengths": [2]}
PADDED = {
    "input_ids": torch.tensor([EIGHT, TWO + [0] * 6]),
    "attention_mask": torch.tensor([[1] * 8, [1] * 2 + [0] * 6]),
}
# alpha / sqrt(L x H) with alpha 5, H 32: of 8 tokens 5 / 16, of 2 tokens 5 / 8.
BOUNDS = {5: 0.3125, 6: 0.625}


def test_every_layout_tells_each_tokens_own_length() -> None:
    rows = [ROW, SHORT]
    assert conversation_lengths(PackedRows(0)(rows)).tolist() == [
        [8] * 8 + [2] * 2,
        [2] * 2 + [1] * 8,  # padding: nobody reads it
    ]
    assert conversation_lengths(FlatRows(8)(rows)).tolist() == [[8] * 8 + [2] * 4]
    assert conversation_lengths(PADDED).tolist() == [[8], [2]]
    flash = {"input_ids": torch.zeros(1, 4), "position_ids": torch.tensor([[0, 1, 2, 0]])}
    assert conversation_lengths(flash).tolist() == [[3, 3, 3, 1]]
    assert conversation_lengths({"input_ids": torch.zeros(2, 7)}).tolist() == [[7], [7]]
    empty = {**PADDED, "attention_mask": torch.zeros(2, 8).long()}
    assert conversation_lengths(empty).tolist() == [[1], [1]]


def blank(model: Any) -> tuple[Any, list[torch.Tensor]]:
    """A model whose embeddings are 0, and what goes into its first block from now on."""
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    seen: list[torch.Tensor] = []
    body = model.base_model
    first = (body.layers if hasattr(body, "layers") else body.h)[0]
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    return model, seen


def assert_bounds(noise: torch.Tensor, ids: torch.Tensor) -> None:
    """noise: [B, T, H]; ids: [B, T]. Of 64 numbers and more some come near the bound."""
    for word, bound in BOUNDS.items():
        largest = float(noise[ids == word].abs().max())
        assert 0.9 * bound < largest <= bound


@pytest.mark.parametrize("wrapped", ["plain", "lora", "checkpointed"])
@pytest.mark.parametrize("layout", ["packed", "flat", "padded"])
def test_packed_or_not_the_noise_has_the_same_bound(layout: str, wrapped: str) -> None:
    model, seen = blank(language_model())
    tuning = TuningSection(method="lora", r=2)
    learner = add_lora(model, tuning, "causal") if wrapped == "lora" else model
    if wrapped == "checkpointed":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    collate = {"packed": PackedRows(0), "flat": FlatRows(8)}
    batch = collate[layout]([ROW, SHORT] * 4) if layout in collate else PADDED
    learner.train()
    with noisy_embeddings(model, 5.0):
        loss = learner(**{**batch, "labels": batch["input_ids"]}, use_cache=False).loss
    loss.backward()  # a block that is computed again reads the same noise
    assert_bounds(seen[0], batch["input_ids"])
    assert all(torch.equal(again, seen[0]) for again in seen)


def test_moss_too() -> None:
    model = moss.tiny_model(300)
    model, seen = blank(model)
    ids = torch.full((2, 8), 7)
    with noisy_embeddings(model.train(), 5.0):
        model.transformer.drop.p = 0.0
        model(input_ids=ids, use_cache=False)
    bound = 5 / (8 * model.config.n_embd) ** 0.5
    assert 0.9 * bound < float(seen[0].abs().max()) <= bound


def test_it_is_off_in_evaluation_without_alpha_and_afterwards() -> None:
    model, seen = blank(language_model())
    with noisy_embeddings(model, 5.0):
        model.eval()(**PADDED)
    with noisy_embeddings(model.train(), None):
        model(**PADDED)
    with pytest.raises(KeyboardInterrupt), noisy_embeddings(model, 5.0):
        raise KeyboardInterrupt
    model(**PADDED)
    assert len(seen) == 3 and not any(part.any() for part in seen)
    assert not model.model._forward_pre_hooks and not model.model.embed_tokens._forward_hooks
