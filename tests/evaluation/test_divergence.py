from __future__ import annotations

import math

import pytest
import torch

from rlhf.evaluation.divergence import divergences
from rlhf.generation import Completion
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM

PROMPTS = [[3, 4, 5], [6]]
ANSWERS = [(7, 8, 2), (9, 2)]


def model() -> BaichuanForCausalLM:
    torch.manual_seed(0)
    config = BaichuanConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        norm_head=True,
        position_embedding="rope",
    )
    return BaichuanForCausalLM(config).train()


def logprobs(reference: BaichuanForCausalLM, prompt: list[int], answer: tuple[int, ...]) -> list:
    with torch.no_grad():
        rows = reference(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return [float(rows[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]


def test_a_model_is_nowhere_from_itself_and_k3_from_another() -> None:
    reference = model()
    own = [logprobs(reference, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    same = [Completion(a, tuple(row), "eos") for a, row in zip(ANSWERS, own, strict=True)]
    assert divergences(reference, PROMPTS, same) == pytest.approx([0.0, 0.0], abs=1e-6)
    assert reference.training

    # Half a nat more likely at every token: exp(-0.5) - 1 + 0.5 a token.
    moved = [
        Completion(a, tuple(x + 0.5 for x in row), "eos")
        for a, row in zip(ANSWERS, own, strict=True)
    ]
    a_token = math.exp(-0.5) - 0.5
    found = divergences(reference, PROMPTS, moved)
    assert found == pytest.approx([3 * a_token, 2 * a_token], abs=1e-5)
