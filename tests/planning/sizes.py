"""A model small enough to reckon with, and configs on it."""

from __future__ import annotations

from dataclasses import replace

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.models.registry import named

SMALL = replace(
    named("baichuan2-7b"), vocab_size=1000, hidden_size=64, intermediate_size=96, layers=5, heads=4
)

WHOLE = "configs/baichuan2_7b.yaml"
TUNED = (
    "configs/baichuan2_7b.yaml",
    "stages=[sft]",
    "sft.tuning.method=full",
    "sft.microbatch_size=1",
)


def config_of(name, *overrides):
    return load_config(resource(name), overrides)


def small(*overrides):
    """The user's config on a small model."""
    config = config_of(WHOLE, "collect.models=[]", "sft.max_length=64", *overrides)
    return config, {entry.path: SMALL for entry in config.models.values()}
