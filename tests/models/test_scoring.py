from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from rlhf.models.moss.configuration import MossConfig
from rlhf.models.moss.modeling import MossForSequenceClassification
from rlhf.models.scoring import (
    one_row_scores,
    score_responses,
    separate_scores,
    shared_prompt_scores,
)
from rlhf.ops.padding import pad_right
from tests.models.moss.conftest import official_config

SEQUENCES = [[5, 9, 3], [7], [4, 4, 8, 1, 2], [6, 2], [9, 9, 9, 9], [8]]


@pytest.fixture(params=["rope", "alibi"])
def model(request: pytest.FixtureRequest) -> BaichuanForSequenceClassification:
    torch.manual_seed(0)
    config = BaichuanConfig(
        vocab_size=10,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
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


def test_padding_with_the_end_of_sequence_moves_no_score(
    model: BaichuanForSequenceClassification,
) -> None:
    eos = 2
    ended = [[*ids, eos] for ids in SEQUENCES]
    assert score_responses(model, ended, eos, 4) == score_responses(model, ended, 0, 4)
    model.config.pad_token_id = model.config.eos_token_id = eos
    assert score_responses(model, ended, eos, 4) == score_responses(model, ended, 0, 4)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_alone(model: BaichuanForSequenceClassification, training: bool) -> None:
    model.train(training)
    score_responses(model, SEQUENCES, 0, 4)
    assert model.training is training


def test_no_sequences(model: BaichuanForSequenceClassification) -> None:
    assert score_responses(model, [], 0, 4) == []


# The responses to each prompt: of unequal number and length, as are the prompts; one is empty.
PROMPTS = [[5, 9, 3, 7, 2], [4], [], [6, 2, 8]]
RESPONSES = [[[1, 2], [3], [4, 4, 4, 1]], [[7, 1, 2], [8]], [[3, 1], [9, 5, 5]], [[0], [1], [2]]]


def ranked_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids and attention_mask [4, 3, T], prompt_lengths [4]."""
    rows = [
        [*prompt, *response] if response else []
        for prompt, responses in zip(PROMPTS, RESPONSES, strict=True)
        for response in [*responses, []][:3]
    ]
    ids, mask = pad_right(rows, 0)
    return ids.view(4, 3, -1), mask.view(4, 3, -1), torch.tensor([len(each) for each in PROMPTS])


def scores_and_gradients(model: Any, scores: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    model.zero_grad()
    # Unequal weights, so that the gradients of two responses cannot stand for each other.
    (scores * torch.linspace(-1, 2, scores.numel()).view_as(scores)).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return scores.detach(), grads


@pytest.mark.parametrize("lora", [False, True])
def test_a_shared_prompt_gives_the_scores_and_gradients_of_separate_ones(
    model: BaichuanForSequenceClassification, lora: bool
) -> None:
    scorer: Any = model
    if lora:
        scorer = add_lora(model, TuningSection(method="lora", r=2), "reward")
        with torch.no_grad():
            for name, parameter in scorer.named_parameters():
                if "lora_B" in name:  # zero at first, which would hide half of the gradient
                    parameter.normal_(std=0.3)
    check_sharing(scorer)


def test_a_shared_prompt_is_exact_for_moss() -> None:
    torch.manual_seed(0)
    check_sharing(
        MossForSequenceClassification(MossConfig(**official_config(10), initializer_range=0.2))
    )


@pytest.mark.parametrize("model", ["rope"], indirect=True)
def test_one_row_gives_the_scores_and_gradients_of_separate_ones(
    model: BaichuanForSequenceClassification,
) -> None:
    """On a GPU a kernel reads that row; here a loop over its sequences."""
    check_sharing(model, one_row_scores)


@pytest.mark.parametrize("model", ["rope"], indirect=True)
def test_one_row_is_run_once_and_without_padding(model: BaichuanForSequenceClassification) -> None:
    seen: list[torch.Size] = []
    model.model.layers[0].register_forward_hook(lambda *given: seen.append(given[2].shape[:2]))
    one_row_scores(model, *ranked_batch())
    tokens = [each for of_prompt in RESPONSES for each in of_prompt]
    assert seen == [(1, sum(map(len, PROMPTS)) + sum(map(len, tokens)))]


def check_sharing(scorer: Any, share: Callable[..., torch.Tensor] = shared_prompt_scores) -> None:
    """In float64: how far float32 comes apart depends on the processor."""
    scorer.double()
    ids, mask, lengths = ranked_batch()
    expected, gradients = scores_and_gradients(scorer, separate_scores(scorer, ids, mask))
    shared = share(scorer, ids, mask, lengths)
    scores, found = scores_and_gradients(scorer, shared)

    assert len(set(expected.flatten().tolist())) == 12 - 1  # two rows fill up K
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert found.keys() == gradients.keys() and found
    for name, gradient in gradients.items():
        assert gradient.any(), name
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-6)


def test_separate_scores_are_those_of_each_sequence_and_zero_where_k_is_filled_up(
    model: BaichuanForSequenceClassification,
) -> None:
    ids, mask, _ = ranked_batch()
    scores = separate_scores(model, ids, mask)
    assert scores[1, 2] == scores[2, 2] == 0
    alone = model(input_ids=torch.tensor([[*PROMPTS[3], *RESPONSES[3][1]]])).logits.item()
    assert scores[3, 1].item() == pytest.approx(alone, abs=1e-5)


def test_without_a_common_token_nothing_is_shared(
    model: BaichuanForSequenceClassification,
) -> None:
    ids, mask, lengths = ranked_batch()
    shared = shared_prompt_scores(model, ids, mask, torch.zeros_like(lengths))
    torch.testing.assert_close(shared, separate_scores(model, ids, mask))


def test_the_prompt_is_encoded_once(model: BaichuanForSequenceClassification) -> None:
    ids, mask, lengths = ranked_batch()
    seen: list[torch.Size] = []
    model.model.layers[0].register_forward_hook(lambda *given: seen.append(given[2].shape[:2]))
    shared_prompt_scores(model, ids, mask, lengths)
    assert seen == [(4, 5), (10, 4)]


def test_what_stands_in_the_padding_is_of_no_matter(
    model: BaichuanForSequenceClassification,
) -> None:
    ids, mask, lengths = ranked_batch()
    wide = [torch.cat([x, torch.full((4, 3, 2), fill)], 2) for x, fill in ((ids, 9), (mask, False))]
    other = torch.where(wide[1], wide[0], 7)
    torch.testing.assert_close(
        shared_prompt_scores(model, other, wide[1], lengths),
        shared_prompt_scores(model, ids, mask, lengths),
    )
