from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.models.checkpoint import check_checkpoint
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


def test_an_imported_member_is_of_the_layout_it_was_re_laid_in(
    checkpoint: Callable[..., Path],
) -> None:
    # 576^2 * 4 + 576 * 1536 * 3 a block, 49,152 * 576 for each of embedding and head.
    assert named("smollm2-135m").parameters == 30 * 3_981_312 + 56_623_104
    assert named("smollm2-100m").parameters == 20 * 3_981_312 + 56_623_104
    check_checkpoint(checkpoint("baichuan-7b"), "smollm2-135m")
    with pytest.raises(ValueError, match="this is a baichuan2-7b checkpoint, not smollm2-135m"):
        check_checkpoint(checkpoint("baichuan2-7b", name="other"), "smollm2-135m")
