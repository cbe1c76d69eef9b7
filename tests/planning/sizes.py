"""A model small enough to reckon with."""

from __future__ import annotations

from dataclasses import replace

from rlhf.models.registry import named

SMALL = replace(
    named("baichuan2-7b"), vocab_size=1000, hidden_size=64, intermediate_size=96, layers=5, heads=4
)
