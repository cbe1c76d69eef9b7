from __future__ import annotations

import pytest
import torch

from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM


@pytest.fixture(scope="module", params=["rope", "alibi"])
def model(request: pytest.FixtureRequest) -> BaichuanForCausalLM:
    torch.manual_seed(0)
    config = BaichuanConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        position_embedding=request.param,
        norm_head=False,
        initializer_range=0.4,
    )
    return BaichuanForCausalLM(config).eval()
