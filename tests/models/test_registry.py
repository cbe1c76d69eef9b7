from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.models.registry import REGISTRY, named, spec_of
from tests.checkpoints import ARCHITECTURES


def test_named_gives_the_nearest_names() -> None:
    assert named("baichuan2-7b").heads == 32
    with pytest.raises(ValueError, match="baichuan2-7b"):
        named("baichuan2_7B")
    with pytest.raises(ValueError, match="baichuan-13b"):
        named("???")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_spec_of_a_checkpoint(checkpoint: Callable[..., Path], architecture: str) -> None:
    spec = spec_of(checkpoint(architecture))
    official = REGISTRY[architecture]
    assert spec.name == architecture
    assert (spec.layers, spec.vocab_size) == (2, 512)
    assert spec.eos_after_answer is official.eos_after_answer is (spec.generation == 1)
    assert (spec.user_token_id, spec.assistant_token_id) == (195, 196)
