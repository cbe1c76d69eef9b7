from __future__ import annotations

import pytest

from rlhf.config.schema import OptimiserSection, SFTSection, TuningSection


def test_weights_are_split_where_all_learn_under_8_bits() -> None:
    eight = OptimiserSection(kind="adamw-8bit")
    assert SFTSection(split_weights=True, optimiser=eight).split_weights
    with pytest.raises(ValueError, match="adamw-8bit"):
        SFTSection(split_weights=True)
    with pytest.raises(ValueError, match="tuning.method: full"):
        SFTSection(split_weights=True, optimiser=eight, tuning=TuningSection(method="lora"))


def test_a_budget_of_activations_is_for_what_is_compiled() -> None:
    assert SFTSection(compile=True, activation_budget=0.7).activation_budget == 0.7
    with pytest.raises(ValueError, match="set compile: true"):
        SFTSection(activation_budget=0.7)
    for outside in (0, 1.1):
        with pytest.raises(ValueError, match="activation_budget"):
            SFTSection(compile=True, activation_budget=outside)


def test_checkpointing_is_on_off_or_a_number_of_blocks() -> None:
    for value in (True, False, 1, 16):
        section = SFTSection.model_validate({"gradient_checkpointing": value})
        assert section.gradient_checkpointing is value or section.gradient_checkpointing == value
        assert type(section.gradient_checkpointing) is type(value)
    with pytest.raises(ValueError):
        SFTSection.model_validate({"gradient_checkpointing": -1})
