from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rlhf.config.schema import SamplingSection
from rlhf.generation.sampler import choose, draw, keep_top_k, keep_top_p, penalise

NO_HISTORY = torch.zeros(1, 0, dtype=torch.long)


def test_draw_inverts_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4, -1)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, math.nextafter(1, 0)], dtype=torch.float64)
    assert draw(probabilities, uniforms).tolist() == [1, 1, 3, 3]


def test_draw_from_many_blocks_of_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    for vocabulary in (1536, 1001, 40):
        probabilities = torch.rand(200, vocabulary, generator=generator)
        probabilities[:, : vocabulary // 3] = 0  # whole blocks without any
        uniforms = torch.rand(200, generator=generator, dtype=torch.float64)
        cumulative = probabilities.double().cumsum(dim=1)
        expected = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(dim=1)
        assert torch.equal(draw(probabilities, uniforms), expected)
    assert (draw(probabilities, torch.zeros(200)) == vocabulary // 3).all()


def test_draws_follow_the_distribution() -> None:
    # Evenly spaced numbers hit every token as often as its probability says, to one draw.
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = draw(probabilities.expand(1000, -1), uniforms).bincount(minlength=4)
    assert (counts - torch.tensor([100, 200, 300, 400])).abs().max() <= 1


def test_top_k_by_hand() -> None:
    kept = keep_top_k(torch.tensor([[1.0, 3.0, 2.0, 2.0]]), 2)
    assert kept.tolist() == [[-math.inf, 3.0, 2.0, 2.0]]
    assert keep_top_k(torch.tensor([[1.0, 3.0]]), 9).tolist() == [[1.0, 3.0]]


def test_top_p_by_hand() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    for p, kept in ((0.4, [1]), (0.6, [1, 2]), (0.79, [1, 2]), (0.9, [0, 1, 2])):
        finite = keep_top_p(logits, p).isfinite()[0].nonzero().squeeze(1)
        assert finite.tolist() == kept


@pytest.mark.parametrize("vocabulary", [125_696, 1001, 40])
def test_nucleus_of_many_blocks_of_tokens(vocabulary: int) -> None:
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(0)) * 3
    for p in (0.1, 0.5, 0.9):
        ordered, tokens = logits.sort(descending=True)
        ordered = ordered.softmax(dim=-1).double()  # what is left to differ is the sum's rounding
        nucleus = ordered.cumsum(dim=-1) - ordered < p
        expected = torch.zeros_like(nucleus).scatter(1, tokens, nucleus)
        kept = keep_top_p(logits, p)
        assert torch.equal(kept[kept.isfinite()], logits[kept.isfinite()])
        wrong = logits.softmax(dim=-1)[kept.isfinite() != expected]
        assert wrong.sum() < 1e-5


@pytest.mark.parametrize("vocabulary", [125_696, 64_001])
def test_no_sum_runs_over_a_whole_vocabulary(vocabulary: int) -> None:
    """Inductor would split it among blocks of threads, in which torch 2.11 fails: of 8 rows."""
    sampling = SamplingSection(temperature=0.3, top_k=5, top_p=0.85, repetition_penalty=1.05)
    given = torch.zeros(8, vocabulary), torch.zeros(8, dtype=torch.float64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        traced = make_fx(lambda logits, numbers, said: choose(logits, sampling, numbers, said))(
            *given, torch.zeros(8, 20, dtype=torch.long)
        )
    sums = [node for node in traced.graph.nodes if node.target is torch.ops.aten.cumsum.default]
    widths = [node.args[0].meta["val"].shape[node.args[1]] for node in sums]
    assert len(widths) == 4 and max(widths) <= 512


def test_penalty_by_hand() -> None:
    logits = torch.tensor([[2.0, -2.0, 3.0, -3.0]])
    penalised = penalise(logits, torch.tensor([[0, 1, 1, 0]]), 2.0)
    assert penalised.tolist() == [[1.0, -4.0, 3.0, -3.0]]


def test_filters_agree_with_transformers() -> None:
    torch.manual_seed(0)
    logits, history = torch.randn(8, 40) * 3, torch.randint(40, (8, 12))
    assert torch.equal(keep_top_k(logits, 7), TopKLogitsWarper(7)(history, logits))
    assert torch.equal(keep_top_p(logits, 0.8), TopPLogitsWarper(0.8)(history, logits))
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(history, logits)
    assert torch.equal(penalise(logits, history, 1.3), theirs)


def test_choose_applies_temperature() -> None:
    logits = torch.tensor([[0.0, math.log(2.0)]])
    # at temperature 0.5 the odds are 1 : 4
    for uniform, token in ((0.19, 0), (0.21, 1)):
        chosen = choose(
            logits, SamplingSection(temperature=0.5), torch.tensor([uniform]), NO_HISTORY
        )
        assert chosen.item() == token


def test_choose_is_greedy_at_temperature_zero() -> None:
    sampling = SamplingSection(temperature=0)
    assert choose(torch.tensor([[1.0, 2.0]]), sampling, torch.zeros(1), NO_HISTORY).item() == 1


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}])
def test_narrow_filters_are_greedy(options: dict[str, float]) -> None:
    uniforms = torch.full((1,), 0.999)
    chosen = choose(torch.tensor([[1.0, 2.0]]), SamplingSection(**options), uniforms, NO_HISTORY)
    assert chosen.item() == 1
