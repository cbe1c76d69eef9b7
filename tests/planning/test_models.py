from __future__ import annotations

import pytest

from rlhf.config.schema import TuningSection
from rlhf.models.registry import named
from rlhf.planning.memory import kv_bytes
from rlhf.planning.models import layer_sizes, nf4_bytes, weights

SPEC = named("baichuan2-7b")


def test_baichuan2_7b_has_as_many_weights_as_published():
    counts = weights(SPEC, "causal", None)
    assert counts.plain == 7_505_973_248
    assert counts.frozen_bytes(2, quantised=False) == 2 * 7_505_973_248
    assert counts.blocks == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert counts.multiplied == counts.plain - 125_696 * 4096


def test_nf4_is_half_a_byte_and_its_scales():
    # 16,384 weights: 256 blocks of 64 with a byte each, one group of those with four.
    assert nf4_bytes(16_384) == 8192 + 256 + 4
    counts = weights(SPEC, "causal", TuningSection(method="qlora"))
    plain = counts.plain - counts.blocks
    assert counts.frozen_bytes(2, quantised=True) == nf4_bytes(counts.blocks) + 2 * plain


def test_adapters_on_every_linear_layer():
    counts = weights(SPEC, "causal", TuningSection(method="lora", r=16))
    inputs_and_outputs = (4096 + 3 * 4096) + 2 * 4096 + 3 * (4096 + 11008)
    assert counts.learning == counts.adapters == 32 * 16 * inputs_and_outputs
    assert counts.frozen_bytes(2, quantised=False) == 2 * 7_505_973_248


def test_a_reward_model_has_a_score_in_place_of_the_head():
    whole = weights(SPEC, "reward", TuningSection(method="full"))
    assert whole.learning == whole.plain == 7_505_973_248 - 125_696 * 4096 + 4096


@pytest.mark.parametrize(
    ("name", "layers", "hidden"), [("baichuan2-7b", 32, 4096), ("baichuan-13b", 40, 5120)]
)
def test_a_token_has_a_key_and_a_value_in_every_layer(name, layers, hidden):
    assert kv_bytes(named(name), 2) == 2 * layers * hidden * 2


def test_layers_as_deepspeed_meets_them():
    assert layer_sizes(SPEC, "causal", TuningSection(method="full")) == (
        3 * 4096**2,
        4096**2,
        *3 * (4096 * 11008,),
        4096,
        4096,
    )
