from __future__ import annotations

import pytest
import torch

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from rlhf.models.scoring import score_responses

SEQUENCES = [[5, 9, 3], [7], [4, 4, 8, 1, 2], [6, 2], [9, 9, 9, 9], [8]]


@pytest.fixture(params=["rope", "alibi"])
def model(request: pytest.FixtureRequest) -> BaichuanForSequenceClassification:
    torch.manual_seed(0)
    config = BaichuanConfig(
        vocab_size=10,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        position_embedding=request.param,
        initializer_range=0.3,
    )
    return BaichuanForSequenceClassification(config)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_order_is_kept_and_the_batch_is_of_no_matter(
    model: BaichuanForSequenceClassification, batch_size: int
) -> None:
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([ids])).logits.item() for ids in SEQUENCES]
    assert len({round(score, 4) for score in alone}) == len(SEQUENCES)
    assert score_responses(model, SEQUENCES, 0, batch_size) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_alone(model: BaichuanForSequenceClassification, training: bool) -> None:
    model.train(training)
    score_responses(model, SEQUENCES, 0, 4)
    assert model.training is training


def test_no_sequences(model: BaichuanForSequenceClassification) -> None:
    assert score_responses(model, [], 0, 4) == []
